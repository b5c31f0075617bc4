//! Requests as only odd clients send them: all at once, of an older HTTP, byte by byte, or with a
//! body that nobody asked for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::{PULL, with_cluster};
use crate::build::Binaries;
use crate::cluster::image::{Image, hex};
use crate::cluster::{Cluster, NODE_PORT};
use crate::{http, run};

/// How long a node waits for the rest of a head.
const HEAD_WAIT: Duration = Duration::from_secs(15);
/// How often a node looks who is too slow.
const SWEEP: Duration = Duration::from_secs(1);
/// How often the slowest client sends a byte.
const TRICKLE: Duration = Duration::from_millis(100);
/// Many small requests: more than a head may have in bytes.
const MANY: usize = 1000;
/// A body that no socket buffer holds.
const BODY_BYTES: usize = 32 << 20;

/// What is asked in one write is answered in order, blobs that the node does not have included.
pub(super) fn in_one_write(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 1, "1gbit", |cluster| {
        let image = cluster.image()?;
        // The second time the node has everything.
        for _ in 0..2 {
            mixed(cluster, &image)?;
        }
        let many = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(MANY - 1);
        let last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answers = exchange(cluster, format!("{many}{last}").as_bytes())?;
        let answers = split(&answers, &["GET"; MANY])?;
        let good = answers.iter().filter(|(status, _)| *status == 200).count();
        ensure!(good == MANY, "{good} of {MANY} requests in one write went well");
        cluster.all_alive()
    })
}

fn mixed(cluster: &Cluster, image: &Image) -> Result<()> {
    let (small, _) = image.blobs().min_by_key(|(_, bytes)| *bytes).context("no blobs")?;
    let (large, _) = image.largest();
    let blob = |digest: &str| format!("/v2/demo/blobs/{digest}");
    let asked = [
        ("GET", "/healthz".to_owned(), "", 200),
        ("GET", "/v2/demo/manifests/latest".to_owned(), "", 200),
        ("HEAD", blob(small), "", 200),
        ("GET", blob(large), "", 200),
        ("HEAD", blob(large), "", 200),
        ("GET", "/nowhere".to_owned(), "", 404),
        ("GET", blob(large), "Range: bytes=5-9\r\n", 206),
        ("GET", blob(large), "Range: bytes=999999999-\r\n", 416),
        ("HEAD", "/nowhere".to_owned(), "", 404),
        ("GET", format!("http://x{}", blob(small)), "", 200),
        ("GET", blob(small), "Connection: close\r\n", 200),
    ];
    let requests = asked.iter().map(|(method, path, more, _)| {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n")
    });
    let methods: Vec<&str> = asked.iter().map(|(method, ..)| *method).collect();
    let answers = exchange(cluster, requests.collect::<String>().as_bytes())?;
    let answers = split(&answers, &methods)?;
    for ((method, path, _, expected), (status, body)) in asked.iter().zip(&answers) {
        ensure!(status == expected, "{method} {path} gets {status}, not {expected}");
        let digest = path.rsplit('/').next().filter(|last| last.contains(':'));
        if let Some(digest) = digest.filter(|_| *method == "GET" && *status == 200) {
            let found = format!("sha256:{}", hex(&Sha256::digest(body)));
            ensure!(found == digest, "{method} {path} gets {found}");
        }
    }
    ensure!(answers[6].1 == answers[3].1[5..10], "a part is another than that of the whole");
    Ok(())
}

/// HTTP/1.0, and clients that close their half before they have the answer.
pub(super) fn older_and_half_closed(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 1, "1gbit", |cluster| {
        let image = cluster.image()?;
        let (digest, _) = image.largest();
        for more in ["", "Connection: keep-alive\r\n"] {
            let request = format!("GET /v2/demo/blobs/{digest} HTTP/1.0\r\n{more}\r\n");
            // That anything returns at all shows that the node has closed.
            let answer = exchange(cluster, request.as_bytes())?;
            let head = String::from_utf8_lossy(&answer[..answer.len().min(400)]).into_owned();
            ensure!(head.contains("\r\nConnection: close\r\n"), "HTTP/1.0 gets {head}");
            let answers = split(&answer, &["GET"])?;
            let found = format!("sha256:{}", hex(&Sha256::digest(&answers[0].1)));
            ensure!(found == digest, "HTTP/1.0 gets the bytes of {found}");
        }
        let half = |request: &str| -> Result<Vec<u8>> {
            with_stream(cluster, |mut stream| {
                stream.write_all(request.as_bytes())?;
                stream.shutdown(Shutdown::Write)?;
                read_all(&mut stream)
            })
        };
        let whole = half(&format!("GET /v2/demo/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"))?;
        let answers = split(&whole, &["GET"])?;
        let found = format!("sha256:{}", hex(&Sha256::digest(&answers[0].1)));
        ensure!(found == digest, "a client that has closed its half gets {found}");
        ensure!(half("GET /healthz HT")?.is_empty(), "half a head is answered");
        cluster.all_alive()
    })
}

/// Who sends what is refused reads the refusal, though it has sent everything first.
pub(super) fn refusals_are_read(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 1, "1gbit", |cluster| {
        let upload = "/v2/demo/blobs/uploads/x";
        let body = vec![b'x'; BODY_BYTES];
        let sized = |line: &str| {
            format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_BYTES}\r\n\r\n")
        };
        let endless = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(BODY_BYTES / 8));
        let chunked = format!("PATCH {upload} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (head, body, status, code) in [
            (sized(&format!("PUT {upload}")), &body[..], 405, "UNSUPPORTED"),
            (chunked, b"5\r\nabcde\r\n0\r\n\r\n", 405, "UNSUPPORTED"),
            (sized("POST /xylem/v1/pulls"), &body[..], 413, "SIZE_INVALID"),
            (endless, b"", 431, "UNSUPPORTED"),
            ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), b"", 400, "UNSUPPORTED"),
        ] {
            let line = head.lines().next().unwrap_or_default().to_owned();
            let answer = with_stream(cluster, |mut stream| {
                stream.write_all(head.as_bytes()).context("while it sends its head")?;
                stream.write_all(body).context("while it sends its body")?;
                read_all(&mut stream)
            });
            let answer = answer.with_context(|| format!("{line} is cut off"))?;
            let answers = split(&answer, &["GET"]).with_context(|| format!("after {line}"))?;
            let (found, said) = (answers[0].0, String::from_utf8_lossy(&answers[0].1).into_owned());
            ensure!(found == status && said.contains(code), "{line} gets {found}: {said}");
        }
        cluster.all_alive()
    })
}

/// A head or a body that comes byte by byte, or not at all, ends; a client that was only idle is
/// answered however it sends its head.
pub(super) fn slow_requests_are_cut(programs: &Binaries) -> Result<()> {
    with_cluster(programs, 1, "1gbit", |cluster| {
        let mut idle = connect(cluster)?;
        let healthz = "GET /healthz HTTP/1.1\r\nHost: x\r\n";
        let answered = |stream: &mut TcpStream| -> Result<()> {
            let mut answer = [0; 15];
            stream.read_exact(&mut answer).context("an idle client gets no answer")?;
            ensure!(answer == *b"HTTP/1.1 200 OK", "{}", String::from_utf8_lossy(&answer));
            stream.set_nonblocking(true)?;
            let rest = run::wait_for("the rest of an answer", PULL, || {
                let mut rest = [0; 1024];
                Ok(stream.read(&mut rest).ok().filter(|read| *read > 0))
            });
            stream.set_nonblocking(false)?;
            rest.map(drop)
        };
        idle.write_all(format!("{healthz}\r\n").as_bytes())?;
        answered(&mut idle)?;
        let began = Instant::now();
        let mut trickle = connect(cluster)?;
        let mut silent = connect(cluster)?;
        silent.write_all(healthz.as_bytes())?;
        let mut bodiless = connect(cluster)?;
        bodiless
            .write_all(b"POST /xylem/v1/pulls HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")?;
        trickle_until_cut(&mut trickle)?;
        for (what, stream) in [("a silent head", &mut silent), ("a missing body", &mut bodiless)] {
            let rest = read_all(stream).with_context(|| format!("{what} is not cut"))?;
            ensure!(rest.is_empty(), "{what} is answered");
        }
        ensure!(began.elapsed() >= HEAD_WAIT, "cut after {:?}", began.elapsed());
        // By now it has been idle for longer than a head may take.
        idle.write_all(healthz.as_bytes())?;
        run::pace(2 * SWEEP)?;
        idle.write_all(b"\r\n")?;
        answered(&mut idle)?;
        cluster.all_alive()
    })
}

/// A byte now and then, until the other side has had enough.
fn trickle_until_cut(stream: &mut TcpStream) -> Result<()> {
    let began = Instant::now();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ")?;
    stream.set_read_timeout(Some(TRICKLE))?;
    while began.elapsed() < PULL {
        run::go_on()?;
        if stream.write_all(b"x").is_err() {
            return Ok(());
        }
        match stream.read(&mut [0; 64]) {
            Ok(0) => return Ok(()),
            Ok(_) => bail!("an unfinished head is answered"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(_) => {}
        }
    }
    bail!("a head that comes byte by byte is not cut")
}

fn address(cluster: &Cluster) -> Result<SocketAddr> {
    Ok(cluster.lab.host(&cluster.nodes()[0])?.at(NODE_PORT))
}

fn connect(cluster: &Cluster) -> Result<TcpStream> {
    let to = address(cluster)?;
    cluster.lab.within(&cluster.nodes()[0], || {
        let stream = TcpStream::connect_timeout(&to, PULL)?;
        stream.set_read_timeout(Some(PULL))?;
        stream.set_write_timeout(Some(PULL))?;
        Ok(stream)
    })
}

fn with_stream<T>(cluster: &Cluster, talk: impl FnOnce(TcpStream) -> Result<T>) -> Result<T> {
    talk(connect(cluster)?)
}

/// All that comes; a reset after it is no end of an answer.
fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn exchange(cluster: &Cluster, request: &[u8]) -> Result<Vec<u8>> {
    let to = address(cluster)?;
    cluster.lab.within(&cluster.nodes()[0], || http::raw(to, request))
}

/// Statuses and bodies of the answers to these methods, with nothing left over.
fn split(mut bytes: &[u8], methods: &[&str]) -> Result<Vec<(u16, Vec<u8>)>> {
    let mut answers = Vec::new();
    for method in methods {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.with_context(|| format!("only {} answers", answers.len()))?;
        let head = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.and_then(|length| length.parse().ok()).context("no length")?;
        let length = if *method == "HEAD" { 0 } else { length };
        bytes = &bytes[end + 4..];
        ensure!(bytes.len() >= length, "a body of {} bytes instead of {length}", bytes.len());
        answers.push((status.context("no status")?, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    ensure!(bytes.is_empty(), "{} bytes follow the last answer", bytes.len());
    Ok(answers)
}
