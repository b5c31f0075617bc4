//! What to do about a registry that does not answer as one. Reads the words of the error: the HTTP
//! client hides what TLS has said behind several causes.

/// About an answer with this status to `GET /v2/`.
pub(super) fn of_status(base: &str, status: u16) -> &'static str {
    match status {
        // So do most servers that are spoken to without the TLS that they expect.
        400 if base.starts_with("http://") => "does it speak TLS? then write https://",
        404 => "is a registry at this URL? it should answer /v2/ itself",
        429 => "it limits this node's requests: wait, or name a mirror of it",
        500..=599 => "see the registry's log, or the proxy's before it",
        _ => "is a registry at this URL?",
    }
}

/// About no answer at all.
pub(super) fn of_failure(base: &str, detail: &str, is_default: bool) -> String {
    let said = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    let text = if said(&["UnknownIssuer", "CaUsedAsEndEntity", "BadSignature"]) {
        if is_default {
            "trust the certificates that signed its own: --upstream-ca FILE"
        } else {
            "trust the certificates that signed its own: ca = \"FILE\" in its [[registry]] of \
             xylemd.toml"
        }
    } else if said(&["NotValidForName", "not valid for name"]) {
        "its certificate is for another name: write the URL with that name"
    } else if said(&["Expired", "expired", "NotValidYet", "not valid yet"]) {
        "its certificate is not valid at this time: check this machine's clock, or have it renewed"
    } else if said(&["certificate", "Certificate"]) {
        "its certificate is not accepted: look at it with openssl s_client"
    } else if said(&["InvalidContentType", "corrupt message", "record overflow"]) {
        "it seems to speak plain HTTP: write http://"
    } else if said(&["dns", "lookup", "resolve", "address"]) {
        "correct the name, or see to the resolver (/etc/resolv.conf)"
    } else if said(&["refused"]) {
        "nothing listens there: start the registry, or correct host and port"
    } else if said(&["unreachable", "No route"]) {
        "there is no route to it: see to this machine's network"
    } else if base.starts_with("http://") {
        "it breaks off: does it speak TLS? then write https://"
    } else {
        "it breaks off: see its log"
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_own() {
        for (detail, expected) in [
            ("cannot reach r: invalid peer certificate: UnknownIssuer", "--upstream-ca"),
            ("invalid peer certificate: certificate not valid for name \"r\"", "another name"),
            ("invalid peer certificate: certificate expired: verification time", "clock"),
            ("received corrupt message of type InvalidContentType", "http://"),
            ("dns error: failed to lookup address information", "resolver"),
            ("tcp connect error: Connection refused (os error 111)", "nothing listens"),
            ("Network is unreachable", "no route"),
            ("connection closed before message completed", "see its log"),
        ] {
            let told = of_failure("https://r", detail, true);
            assert!(told.contains(expected), "{detail}: {told}");
        }
        assert!(of_failure("https://r", "UnknownIssuer", false).contains("ca ="));
        assert!(of_failure("http://r", "connection closed", false).contains("https://"));
        assert!(of_status("http://r", 400).contains("https://"));
    }
}
