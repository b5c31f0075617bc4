//! Who may have what is kept here: grants, which remember the registry's yes by a keyed hash, and
//! vouchers, by which a node tells another that it has such a grant. Asks nobody; no secret of a
//! client is in here.

use std::time::{Duration, Instant};

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use xylem_protocol::Digest;
use xylem_protocol::http::{Request, Route};
use xylem_protocol::limits::GRANTS_MAX;
use xylem_protocol::names::Target;

use crate::lru::Lru;

/// A caller's right to one blob or manifest of one repository, hashed with a key of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrantKey {
    tag: [u8; 16],
    /// The first bytes of the digest, by which all rights to it are found.
    part: [u8; PART_BYTES],
}

/// Bytes of a digest in a [`GrantKey`]: few enough to cost little, and rights that are taken away
/// with those to another digest are only asked for again.
const PART_BYTES: usize = 4;

/// Makes [`GrantKey`]s; both halves of a node have the same.
#[derive(Clone)]
pub struct Grantor(hmac::Key);

impl std::fmt::Debug for Grantor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grantor(..)")
    }
}

/// The system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandom;

impl Grantor {
    /// With a key that nobody else has.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn new() -> Result<Self, NoRandom> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| NoRandom)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The key of a request's right to a digest in the repository that it names.
    pub fn key(&self, request: &Request, digest: &Digest) -> GrantKey {
        let repository = request.route.repository().unwrap_or_default();
        let mut context = hmac::Context::with_key(&self.0);
        let namespace = request.namespace.as_deref();
        for part in [namespace, Some(repository), request.authorization.as_deref()] {
            // An absent part differs from an empty one, and no part runs into the next.
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            context.update(&length.to_le_bytes());
            context.update(part.unwrap_or_default().as_bytes());
        }
        context.update(digest.as_bytes());
        let tag = context.sign();
        let mut key = GrantKey { tag: [0; 16], part: part(digest) };
        key.tag.copy_from_slice(&tag.as_ref()[..16]);
        key
    }
}

fn part(digest: &Digest) -> [u8; PART_BYTES] {
    let mut part = [0; PART_BYTES];
    part.copy_from_slice(&digest.as_bytes()[..PART_BYTES]);
    part
}

/// The digest that a request is for, if it names one.
pub fn digest_of(request: &Request) -> Option<Digest> {
    match &request.route {
        Route::Blob { digest, .. } => Some(*digest),
        Route::Manifest { target: Target::Digest(digest), .. } => Some(*digest),
        _ => None,
    }
}

/// Rights that are remembered, and until when.
#[derive(Debug)]
pub struct Grants(Lru<GrantKey, Instant>);

impl Default for Grants {
    fn default() -> Self {
        Self(Lru::new(GRANTS_MAX))
    }
}

impl Grants {
    /// Remembers a right; a later end replaces an earlier one.
    pub fn insert(&mut self, key: GrantKey, until: Instant) {
        let until = self.0.peek(&key).map_or(until, |earlier| until.max(*earlier));
        self.0.insert(key, until);
    }

    /// Until when a right holds that holds at `now`.
    pub fn get(&mut self, key: GrantKey, now: Instant) -> Option<Instant> {
        self.0.get(&key).copied().filter(|until| now < *until)
    }

    /// Until when a right holds that held not longer than `grace` ago.
    pub fn get_late(&mut self, key: GrantKey, now: Instant, grace: Duration) -> Option<Instant> {
        self.0.get(&key).copied().filter(|until| now < *until + grace)
    }

    /// Forgets a right.
    pub fn remove(&mut self, key: GrantKey) {
        self.0.remove(&key);
    }

    /// Forgets all rights to a digest: whoever wants it is to show again that it may have it.
    pub fn revoke(&mut self, digest: &Digest) {
        let part = part(digest);
        let found = self.0.iter().map(|(key, _)| *key).filter(|key| key.part == part);
        for key in found.collect::<Vec<_>>() {
            self.0.remove(&key);
        }
    }
}

/// Keys that the nodes of a fleet share, as control handed them out: the present one first, then
/// the one before it, because nodes hear of a new one at different times.
#[derive(Clone, Default)]
pub struct Vouchers(Vec<hmac::Key>);

impl std::fmt::Debug for Vouchers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vouchers({})", self.0.len())
    }
}

/// Keys remembered: the present one and the one before.
const KEYS_MAX: usize = 2;

impl Vouchers {
    /// Takes a new key.
    pub fn renew(&mut self, key: &[u8]) {
        self.0.insert(0, hmac::Key::new(hmac::HMAC_SHA256, key));
        self.0.truncate(KEYS_MAX);
    }

    /// The value of the grant header for a request: one word per key. `None` without a key.
    pub fn sign(
        &self,
        node: &str,
        namespace: Option<&str>,
        repository: &str,
        digest: &Digest,
    ) -> Option<String> {
        let message = message(node, namespace, repository, digest);
        let words: Vec<String> = self
            .0
            .iter()
            .map(|key| {
                hmac::sign(key, &message).as_ref().iter().map(|b| format!("{b:02x}")).collect()
            })
            .collect();
        (!words.is_empty()).then(|| words.join(","))
    }

    /// Whether a node of this fleet vouches for its caller.
    pub fn vouched(&self, request: &Request) -> bool {
        let (Some(grant), Some(node), Some(repository), Some(digest)) =
            (&request.grant, &request.node, request.route.repository(), digest_of(request))
        else {
            return false;
        };
        let message = message(node, request.namespace.as_deref(), repository, &digest);
        let tags = grant.split(',').take(KEYS_MAX).filter_map(unhex);
        tags.into_iter()
            .any(|tag| self.0.iter().any(|key| hmac::verify(key, &message, &tag).is_ok()))
    }
}

fn message(node: &str, namespace: Option<&str>, repository: &str, digest: &Digest) -> Vec<u8> {
    // None of the parts holds a line's end.
    let namespace = namespace.unwrap_or_default();
    format!("{node}\n{namespace}\n{repository}\n{digest}").into_bytes()
}

fn unhex(word: &str) -> Option<[u8; 32]> {
    let word = word.trim().as_bytes();
    if word.len() != 64 {
        return None;
    }
    let mut tag = [0; 32];
    for (byte, pair) in tag.iter_mut().zip(word.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn request(target: &str, lines: &str) -> Request {
        let head = format!("GET {target} HTTP/1.1\r\nHost: me\r\n{lines}\r\n");
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn every_part_of_a_right_counts() {
        let grantor = Grantor::new().unwrap();
        let key = |target: &str, lines: &str| {
            let request = request(target, lines);
            grantor.key(&request, &digest_of(&request).unwrap())
        };
        let blob = format!("/v2/a/blobs/{ZERO}");
        let plain = key(&blob, "");
        assert_eq!(plain, key(&blob, "Range: bytes=1-\r\n"));
        assert_eq!(plain, key(&format!("/v2/a/manifests/{ZERO}"), ""));
        let one = ZERO.replace("00", "01");
        for (target, lines) in [
            (blob.clone(), "Authorization: Basic x\r\n"),
            (blob.clone(), "Authorization:\r\n"),
            (format!("{blob}?ns=r"), ""),
            (format!("/v2/b/blobs/{ZERO}"), ""),
            (format!("/v2/a/blobs/{one}"), ""),
        ] {
            assert_ne!(plain, key(&target, lines), "{target} {lines}");
        }
        let other = Grantor::new().unwrap();
        let same = request(&blob, "");
        assert_ne!(plain, other.key(&same, &digest_of(&same).unwrap()), "keyed");
    }

    #[test]
    fn rights_end() {
        let (mut grants, grantor) = (Grants::default(), Grantor::new().unwrap());
        let request = request(&format!("/v2/a/blobs/{ZERO}"), "");
        let key = grantor.key(&request, &digest_of(&request).unwrap());
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        grants.insert(key, now + second);
        grants.insert(key, now);
        assert_eq!(grants.get(key, now), Some(now + second));
        assert_eq!(grants.get(key, now + second), None);
        assert_eq!(grants.get_late(key, now + second, second), Some(now + second));
        assert_eq!(grants.get_late(key, now + 2 * second, second), None);
        grants.remove(key);
        assert_eq!(grants.get(key, now), None);
        grants.insert(key, now + second);
        grants.revoke(&Digest::from_bytes([1; 32]));
        assert_eq!(grants.get(key, now), Some(now + second));
        grants.revoke(&ZERO.parse().unwrap());
        assert_eq!(grants.get(key, now), None);
    }

    #[test]
    fn only_nodes_of_the_fleet_vouch() {
        let (mut ours, mut theirs) = (Vouchers::default(), Vouchers::default());
        let digest = ZERO.parse().unwrap();
        let sign = |by: &Vouchers| by.sign("n2", Some("r"), "a", &digest);
        assert_eq!(sign(&ours), None, "control has given no key");
        ours.renew(b"old");
        theirs.renew(b"other");
        let ask = |grant: &str, node: &str| {
            let lines = format!("Xylem-Node: {node}\r\nXylem-Grant: {grant}\r\n");
            request(&format!("/v2/a/blobs/{ZERO}?ns=r"), &lines)
        };
        let grant = sign(&ours).unwrap();
        assert!(ours.vouched(&ask(&grant, "n2")));
        assert!(!ours.vouched(&ask(&grant, "n3")), "another node's word");
        assert!(!ours.vouched(&ask(&sign(&theirs).unwrap(), "n2")));
        for bad in ["", "xx", &grant[1..], &format!("{grant}00")] {
            assert!(!ours.vouched(&ask(bad, "n2")), "{bad}");
        }
        // A new key: some nodes have it already, some not yet.
        let mut ahead = ours.clone();
        ahead.renew(b"new");
        assert!(ahead.vouched(&ask(&grant, "n2")));
        assert!(ours.vouched(&ask(&sign(&ahead).unwrap(), "n2")));
    }
}
