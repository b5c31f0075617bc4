//! The name of a registry as image references write it, checked before it becomes a directory, a
//! TOML string or a path component. Never resolved here.

use std::fmt;
use std::str::FromStr;

use crate::limits::{HOST_LABEL_MAX, HOST_MAX};

/// `HOST[:PORT]`: lower case, no path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) struct RegistryHost(String);

impl RegistryHost {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one component of a repository path, where a colon may not stand.
    pub(super) fn component(&self) -> String {
        self.0.replace(':', "__")
    }

    /// Host and port.
    pub(super) fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (&self.0, None),
        }
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RegistryHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if host.len() > HOST_MAX as usize || !host.split('.').all(label_is_valid) {
            return Err("must be HOST[:PORT] of a registry: a-z, 0-9, dots and hyphens");
        }
        if port.is_some_and(|port| !port_is_valid(port)) {
            return Err("must end in a port from 1 to 65535, or have none");
        }
        Ok(Self(text.to_owned()))
    }
}

fn label_is_valid(label: &str) -> bool {
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=HOST_LABEL_MAX as usize).contains(&label.len())
        && label.bytes().all(valid)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn port_is_valid(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts() {
        for good in ["docker.io", "localhost:5000", "10.0.0.1:65535", "a--b.example", "r"] {
            assert_eq!(good.parse::<RegistryHost>().unwrap().to_string(), good);
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = "a.".repeat(130) + "example";
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "../etc",
            "a/b",
            "/",
            "a:",
            ":5000",
            "a:0",
            "a:65536",
            "a:05",
            "a:+5",
            "a:5:6",
            "UPPER.example",
            "a_b",
            "-a",
            "a-",
            "a b",
            "a\n",
            "a\"",
            "[::1]:5000",
            "*.example",
            "_default",
            &long,
            &longer,
        ] {
            assert!(bad.parse::<RegistryHost>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_stands_behind_two_underscores() {
        let host: RegistryHost = "registry.example.com:5000".parse().unwrap();
        assert_eq!(host.component(), "registry.example.com__5000");
        assert_eq!(host.parts(), ("registry.example.com", Some("5000")));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_one_name_everywhere(text in "[a-zA-Z0-9.:/_-]{0,20}") {
            if let Ok(host) = text.parse::<RegistryHost>() {
                prop_assert!(!host.as_str().contains(['/', '"', '\\']) && host.as_str() != "..");
                xylem_protocol::names::check_repository(&host.component()).unwrap();
            }
        }
    }
}
