//! The agent's surroundings, made of paper: a hot half that only takes and gives messages, a
//! registry that says what the test wants. The control process is in control.rs.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use xylem_protocol::Digest;
use xylem_protocol::http::{Request, ResponseHead};

use super::super::{AccessSettings, Settings, serve};
use crate::access::Grantor;
use crate::config::Options;
use crate::link::{HotEnd, Lost, Ticket, ToCold, ToHot, pair};
use crate::origin::Registries;
use crate::ring::{EventFd, watch};
use crate::store::Store;

/// Longest wait for anything that has to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// What a paper registry answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Bytes of the body that are sent before the connection is closed.
    pub(super) cut: Option<usize>,
}

impl Page {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn manifest(json: &str) -> Self {
        Self::new(200, json)
            .with("Content-Type", "application/vnd.oci.image.manifest.v1+json")
            .with("Docker-Content-Digest", digest(json.as_bytes()).to_string())
    }
}

/// An HTTP server whose every answer is the test's; its thread ends with the process.
#[derive(Debug, Clone)]
pub(super) struct PaperServer {
    pub(super) address: SocketAddr,
    /// Request heads, as they came.
    heads: Arc<Mutex<Vec<String>>>,
    /// Connections are closed at once.
    broken: Arc<AtomicBool>,
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

impl PaperServer {
    /// `answer` gets a request's first line, such as `GET /v2/ HTTP/1.1`.
    pub(super) fn start(answer: impl Fn(&str) -> Page + Send + Sync + 'static) -> Self {
        Self::listen(answer, |socket| Ok(Box::new(socket)))
    }

    /// The same in TLS, for `localhost`. Its certificate is written to `ca`.
    pub(super) fn start_tls(
        ca: &Path,
        answer: impl Fn(&str) -> Page + Send + Sync + 'static,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(ca, made.cert.pem()).unwrap();
        let chain = vec![CertificateDer::from(made.cert)];
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        Self::listen(answer, move |socket| {
            let connection = rustls::ServerConnection::new(config.clone())?;
            Ok(Box::new(rustls::StreamOwned::new(connection, socket)))
        })
    }

    fn listen(
        answer: impl Fn(&str) -> Page + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Result<Box<dyn Duplex>, rustls::Error> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let broken = Arc::new(AtomicBool::new(false));
        let is_broken = broken.clone();
        let shared = Arc::new((answer, wrap, heads.clone()));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if is_broken.load(Ordering::SeqCst) {
                    continue;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let (answer, wrap, heads) = &*shared;
                    let Ok(mut stream) = wrap(socket) else { return };
                    // A client that goes away in the middle is part of some tests.
                    let _ = serve_one(&mut *stream, answer, heads);
                });
            }
        });
        Self { address, heads, broken }
    }

    /// From now on nobody gets an answer.
    pub(super) fn break_down(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(super) fn count(&self, part: &str) -> usize {
        self.heads().iter().filter(|head| head.contains(part)).count()
    }
}

fn serve_one(
    stream: &mut dyn Duplex,
    answer: &impl Fn(&str) -> Page,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let first = head.lines().next().unwrap_or_default().to_owned();
    heads.lock().unwrap().push(head);
    let page = answer(&heads.lock().unwrap().last().cloned().unwrap_or_default());
    let mut out = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", page.status);
    if !page.headers.iter().any(|(name, _)| *name == "Content-Length") {
        out.push_str(&format!("Content-Length: {}\r\n", page.body.len()));
    }
    for (name, value) in &page.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    stream.write_all(out.as_bytes())?;
    if !first.starts_with("HEAD") {
        stream.write_all(&page.body[..page.cut.unwrap_or(page.body.len())])?;
    }
    stream.flush()
}

/// The agent's other end.
pub(super) struct Bench {
    hot: HotEnd,
    bell: AsyncFd<Arc<EventFd>>,
    pub(super) store: PathBuf,
    tickets: Cell<u64>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<Result<(), super::super::AgentError>>,
    _dir: tempfile::TempDir,
}

/// What is done with a store before its agent starts.
type Fill = Box<dyn FnOnce(&Store)>;

/// How a bench's agent is set up.
#[derive(Default)]
pub(super) struct Setup {
    pub(super) upstream: Option<String>,
    /// Further registries, as `--registry` has them.
    pub(super) registries: Vec<String>,
    /// Whether callers' rights are checked.
    pub(super) checks: bool,
    /// How long tags' last digests are given out while their registry is down.
    pub(super) offline: Duration,
    pub(super) ca: Option<PathBuf>,
    pub(super) control: Option<SocketAddr>,
    /// Fills the store before the agent opens it.
    pub(super) fill: Option<Fill>,
}

impl Setup {
    pub(super) fn registry(server: &PaperServer) -> Self {
        Self { upstream: Some(format!("http://{}", server.address)), ..Self::default() }
    }

    /// Runs a test with an agent of this kind. The agent is stopped in good order afterwards.
    pub(super) fn run(self, test: impl AsyncFnOnce(&Bench)) {
        tokio_uring::start(async {
            let mut bench = Bench::start(self);
            test(&bench).await;
            let _ = bench.stop.take().unwrap().send(());
            tokio::time::timeout(PATIENCE, bench.served).await.unwrap().unwrap().unwrap();
        });
    }
}

impl Bench {
    fn start(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        if let Some(fill) = setup.fill {
            fill(&store);
        }
        let options = Options {
            node: Some("me".into()),
            upstream: setup.upstream,
            upstream_ca: setup.ca,
            registry: setup.registries.iter().map(|text| text.parse().unwrap()).collect(),
            ..Options::default()
        };
        let registries = Registries::new(&options.check().unwrap()).unwrap();
        let access = AccessSettings {
            grantor: setup.checks.then(|| Grantor::new().unwrap()),
            grant: Duration::from_secs(300),
            offline: setup.offline,
        };
        let (hot, cold) = pair().unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let settings = Settings {
            node: "me".into(),
            listen: address,
            advertise: address,
            zone: String::new(),
            control: setup.control.map(|address| format!("http://{address}")),
            memory_bytes: 0,
            locked: true,
            is_memory_reduced: false,
            access,
        };
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
            Ok(())
        };
        let served = tokio_uring::spawn(serve(
            settings,
            store,
            registries,
            crate::probes::Availability::Off,
            cold,
            stopped,
        ));
        let bell = watch(hot.bell.clone()).unwrap();
        let (store, tickets) = (dir.path().to_owned(), Cell::new(0));
        Self { hot, bell, store, tickets, stop: Some(stop), served, _dir: dir }
    }

    pub(super) fn tell(&self, message: ToCold) {
        self.hot.to_cold.send(message).unwrap();
    }

    /// The agent's next message.
    pub(super) async fn next(&self) -> ToHot {
        let next = async {
            loop {
                if let Ok(message) = self.hot.from_cold.try_recv() {
                    return message;
                }
                self.bell.readable().await.unwrap().clear_ready();
                self.bell.get_ref().silence();
                if let Ok(message) = self.hot.from_cold.try_recv() {
                    self.hot.bell.ring();
                    return message;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("the agent says nothing")
    }

    /// The agent's next message that is not about rights.
    pub(super) async fn next_else(&self) -> ToHot {
        loop {
            match self.next().await {
                ToHot::Grants { .. } | ToHot::Vouchers(_) => {}
                other => return other,
            }
        }
    }

    /// Asks whether a request's caller may have a blob: yes, or the answer that says no.
    pub(super) async fn admit(&self, line: &str, lines: &str) -> Result<(), Answered> {
        let ticket = self.ticket();
        self.tell(ToCold::Admit { ticket, request: Box::new(request(line, lines)) });
        match self.next_else().await {
            ToHot::Admitted { ticket: to } if to == ticket => Ok(()),
            other => Err(Answered::of(other, ticket)),
        }
    }

    fn ticket(&self) -> Ticket {
        self.tickets.set(self.tickets.get() + 1);
        Ticket(self.tickets.get())
    }

    pub(super) fn want(&self, blob: Digest, extra: &str) {
        self.want_of("a/b", blob, extra);
    }

    pub(super) fn want_of(&self, repository: &str, blob: Digest, lines: &str) {
        let request = Box::new(request(&format!("GET /v2/{repository}/blobs/{blob}"), lines));
        self.tell(ToCold::Want { digest: blob, request });
    }

    pub(super) fn lose(&self, digest: Digest, attempt: u32, at: u64, cause: Lost) {
        self.tell(ToCold::Lost { digest, attempt, at, cause });
    }

    /// Asks, and gives status, the head's further parts and the body of the one answer.
    pub(super) async fn ask(&self, line: &str, body: &str) -> Answered {
        self.ask_with(line, "", body).await
    }

    /// Asks; the answer comes among other messages.
    pub(super) fn ask_later(&self, line: &str) -> Ticket {
        let ticket = self.ticket();
        let request = Box::new(request(line, ""));
        self.tell(ToCold::Ask { ticket, request, body: Vec::new() });
        ticket
    }

    /// The same with further header lines, each ended by CRLF.
    pub(super) async fn ask_with(&self, line: &str, lines: &str, body: &str) -> Answered {
        let ticket = self.ticket();
        let request = Box::new(request(line, lines));
        self.tell(ToCold::Ask { ticket, request, body: body.into() });
        Answered::of(self.next_else().await, ticket)
    }

    /// State of a pull when it is no longer running; `meanwhile` gets what else the agent says.
    pub(super) async fn pulled(
        &self,
        id: u64,
        mut meanwhile: impl FnMut(&Self, ToHot),
    ) -> serde_json::Value {
        let mut running = true;
        loop {
            let ticket = self.ticket();
            let request = Box::new(request(&format!("GET /xylem/v1/pulls/{id}"), ""));
            self.tell(ToCold::Ask { ticket, request, body: Vec::new() });
            while running {
                match self.next().await {
                    ToHot::Answer { body, .. } => {
                        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
                        running = json["state"] == "running";
                        if !running {
                            return json;
                        }
                        break;
                    }
                    other => meanwhile(self, other),
                }
            }
        }
    }

    /// Waits until a blob or manifest is complete in the store.
    pub(super) async fn holds(&self, digest: Digest) {
        let path = self.store.join("blobs/sha256").join(digest.hex());
        let kept = async {
            let mut polls = tokio::time::interval(Duration::from_millis(1));
            while !path.exists() {
                polls.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, kept).await.expect("it is not kept");
    }

    /// Writes a blob's bytes as the ring thread would.
    pub(super) fn write(&self, blob: Digest, bytes: &[u8]) {
        std::fs::write(self.store.join("partial").join(blob.hex()), bytes).unwrap();
    }
}

#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) digest: Option<Digest>,
    pub(super) extra: String,
    pub(super) head_length: Option<u64>,
    pub(super) body: String,
}

impl Answered {
    pub(super) fn of(message: ToHot, ticket: Ticket) -> Self {
        match message {
            ToHot::Answer {
                ticket: to,
                status,
                content_type,
                digest,
                extra,
                head_length,
                body,
            } => {
                assert_eq!(to, ticket);
                let body = String::from_utf8(body.into()).unwrap();
                Self { status, content_type, digest, extra, head_length, body }
            }
            other => panic!("no answer but {other:?}"),
        }
    }
}

pub(super) fn request(line: &str, extra: &str) -> Request {
    let head = format!("{line} HTTP/1.1\r\nHost: me\r\n{extra}\r\n");
    Request::parse(head.as_bytes()).unwrap().unwrap().0
}

/// The loss of a source that answered with this head.
pub(super) fn status(head: &str) -> Lost {
    let head = format!("HTTP/1.1 {head}\r\n\r\n");
    Lost::Status(Box::new(ResponseHead::parse(head.as_bytes()).unwrap().unwrap().0))
}
