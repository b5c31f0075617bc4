//! A token service for a registry that asks for Bearer tokens; it knows one user.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use super::certificates;

/// Whom registry and tokens name.
const ISSUER: &str = "token service of a lab";
const SERVICE: &str = "registry of a lab";
/// How long a token is good where that does not matter.
pub(super) const LIFE: Duration = Duration::from_secs(300);
/// By how much later the registry believes a token to end than the token says.
const LEEWAY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: u64 = 16 << 10;
/// Bytes of each of the two numbers of a signature with P-256.
const NUMBER_BYTES: usize = 32;

#[derive(Debug)]
struct Shared {
    key: KeyPair,
    certificate: String,
    /// The only `Authorization` that gets tokens.
    accepted: String,
    life: Duration,
    stop: AtomicBool,
}

/// The service, on a thread of ours. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct TokenService {
    realm: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TokenService {
    /// Serves whoever sends `accepted` as `Authorization`; its tokens are good for so long.
    pub(super) fn start(listener: TcpListener, accepted: &str, life: Duration) -> Result<Self> {
        let (key, certificate) = certificates::for_tokens()?;
        let shared = Arc::new(Shared {
            key,
            certificate: STANDARD.encode(certificate.der()),
            accepted: accepted.to_owned(),
            life,
            stop: AtomicBool::new(false),
        });
        let realm = format!("http://{}/token", listener.local_addr()?);
        listener.set_nonblocking(true)?;
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&listener, &own));
        Ok(Self { realm, shared, thread: Some(thread) })
    }

    /// The registry's `auth` section; the certificate that it trusts is written into `directory`.
    pub(super) fn auth(&self, directory: &Path) -> Result<String> {
        let bundle = directory.join("tokens.pem");
        let lines = self.shared.certificate.as_bytes().chunks(64);
        let lines = lines.map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
        let body: String = lines.collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n");
        fs::write(&bundle, pem).context("cannot write the certificate of the token service")?;
        Ok(format!(
            "{{token: {{realm: {:?}, service: {SERVICE:?}, issuer: {ISSUER:?}, \
             rootcertbundle: {:?}}}}}",
            self.realm,
            bundle.display().to_string()
        ))
    }

    /// A token as a client gets it: for pulls from one repository.
    pub(super) fn token(&self, repository: &str) -> Result<String> {
        self.shared.token(&[format!("repository:{repository}:pull")])
    }
}

impl Drop for TokenService {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A signed token that gives what these scopes ask for.
    fn token(&self, scopes: &[String]) -> Result<String> {
        let access = scopes.iter().filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": "somebody", "aud": SERVICE, "jti": format!("{now}"),
            "iat": now, "nbf": now, "exp": now + self.life.as_secs() - LEEWAY.as_secs(),
            "access": access.collect::<Vec<Value>>(),
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = two_numbers(&self.key.sign(signed.as_bytes())?)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn answer(&self, request: &str, authorization: &str) -> Result<(&'static str, Value)> {
        let mut words = request.split(' ');
        if words.next() != Some("GET") {
            // Clients then ask the older way.
            return Ok(("405 Method Not Allowed", json!({})));
        }
        if authorization != self.accepted {
            let error = json!({"code": "UNAUTHORIZED", "message": "who are you?"});
            return Ok(("401 Unauthorized", json!({"errors": [error]})));
        }
        let query = words.next().and_then(|path| path.split_once('?')).map_or("", |(_, it)| it);
        let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
        let scopes: Vec<String> = scopes.map(decoded).collect();
        let token = self.token(&scopes)?;
        Ok(("200 OK", json!({"token": token, "expires_in": self.life.as_secs()})))
    }
}

/// A signature as tokens have it, from one as certificates have it: two integers in a sequence.
fn two_numbers(der: &[u8]) -> Result<Vec<u8>> {
    let mut rest = der.get(2..).context("a signature of no length")?;
    let mut both = Vec::with_capacity(2 * NUMBER_BYTES);
    for _ in 0..2 {
        let length = usize::from(*rest.get(1).context("a cut signature")?);
        let number = rest.get(2..2 + length).context("a cut signature")?;
        // Leading zeros may be there or be left out.
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        ensure!(number.len() <= NUMBER_BYTES, "a signature of another curve");
        both.extend(std::iter::repeat_n(0, NUMBER_BYTES - number.len()));
        both.extend(number);
        rest = &rest[2 + length..];
    }
    Ok(both)
}

/// Undoes `%3A` and the like.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        let byte = u8::from_str_radix(code, 16).unwrap_or(b'%');
        plain.push(char::from(byte));
        plain.push_str(rest);
    }
    plain
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, from)) => {
                let shared = Arc::clone(shared);
                std::thread::spawn(move || converse(&stream, from, &shared));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// One request, one answer; a client that goes away is no error of this service.
fn converse(mut stream: &TcpStream, from: SocketAddr, shared: &Shared) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let mut request = String::new();
    let mut authorization = String::new();
    for line in BufReader::new(stream.take(HEAD_BYTES_MAX)).lines().map_while(Result::ok) {
        let name = line.split_once(':').filter(|(it, _)| it.eq_ignore_ascii_case("authorization"));
        if let Some((_, value)) = name {
            value.trim().clone_into(&mut authorization);
        } else if request.is_empty() {
            request = line;
        } else if line.is_empty() {
            break;
        }
    }
    let (status, body) = shared.answer(&request, &authorization).unwrap_or_else(|error| {
        eprintln!("warning: the token service cannot answer {from}: {error:#}");
        ("500 Internal Server Error", json!({}))
    });
    let (body, length) = (body.to_string(), body.to_string().len());
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n");
    let answer = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_have_a_fixed_length() {
        let short = [0x30, 0x07, 2, 1, 5, 2, 2, 0, 0x81];
        let both = two_numbers(&short).unwrap();
        assert_eq!((both.len(), both[31], both[63]), (64, 5, 0x81));
        assert!(two_numbers(&short[..6]).is_err());
    }

    #[test]
    fn queries_are_decoded() {
        assert_eq!(decoded("repository%3Aa%2fb%3Apull"), "repository:a/b:pull");
    }
}
