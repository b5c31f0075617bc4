//! The registries behind one node, and which of them a request means. Asks none of them.

use std::cell::RefCell;
use std::rc::Rc;

use xylem_protocol::limits::REGISTRIES_MAX;
use xylem_protocol::names::split_host;

use super::{Layout, Origin, OriginError, Registry};
use crate::config::{Config, RegistrySpec, UpstreamSpec};
use crate::lru::Lru;

/// A registry that clients call by a name.
#[derive(Debug)]
struct Named {
    host: Rc<str>,
    origin: Rc<Origin>,
}

/// All registries behind a node.
#[derive(Debug)]
pub struct Registries {
    /// For requests that name none.
    default: Rc<Origin>,
    named: Vec<Named>,
    /// Registries that nobody configured, where any will do.
    others: Option<RefCell<Lru<Rc<str>, Rc<Origin>>>>,
}

/// A request for a registry that this node does not speak for.
#[derive(Debug, thiserror::Error)]
pub enum UnknownRegistry {
    /// It is named and not configured.
    #[error("this node is not configured for {host}; it serves {known}")]
    NotConfigured {
        /// Which.
        host: String,
        /// What is configured, for people.
        known: String,
    },
    /// It is not named, and there are several.
    #[error("which registry? say ?ns=HOST or /v2/HOST/NAME: this node serves {0}")]
    Ambiguous(String),
    /// It can be named but not used.
    #[error("cannot use the registry")]
    Unusable(#[from] OriginError),
}

/// A repository of one of the registries.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Name of the registry, where it is not the default one.
    host: Option<Rc<str>>,
    origin: Rc<Origin>,
    name: String,
}

impl PartialEq for Repository {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.host == other.host
    }
}

impl Eq for Repository {}

impl Repository {
    /// Name of the registry as `?ns=` has it; `None` for the default one.
    pub fn host(&self) -> Option<&Rc<str>> {
        self.host.as_ref()
    }

    /// The registry.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Name within the registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For people: with the registry, where it is not the default one.
    pub fn label(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}/{}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Registries {
    /// From the settings; connects to nothing yet.
    ///
    /// # Errors
    /// [`OriginError`]: certificates that cannot be read, or a directory that is no layout.
    pub fn new(config: &Config) -> Result<Self, OriginError> {
        let default = match &config.upstream {
            None => Origin::None,
            Some(UpstreamSpec::Registry(endpoint)) => {
                Origin::Registry(Registry::new(&RegistrySpec {
                    endpoint: endpoint.clone(),
                    ca: config.upstream_ca.clone(),
                    ..RegistrySpec::of_host(&endpoint.authority)
                })?)
            }
            Some(UpstreamSpec::Layout(path)) => Origin::Layout(Layout::open(path)?),
        };
        let named = |spec: &RegistrySpec| {
            let origin = Rc::new(Origin::Registry(Registry::new(spec)?));
            Ok(Named { host: Rc::from(spec.host.as_str()), origin })
        };
        Ok(Self {
            default: Rc::new(default),
            named: config.registries.iter().map(named).collect::<Result<_, OriginError>>()?,
            others: config.all.then(|| RefCell::new(Lru::new(REGISTRIES_MAX))),
        })
    }

    /// The registry for requests that name none.
    pub fn default_origin(&self) -> &Origin {
        &self.default
    }

    /// The registries that clients may name, and where they are.
    pub fn known(&self) -> Vec<(String, String)> {
        let of = |host: &str, origin: &Origin| Some((host.to_owned(), origin.name()?));
        let default = self.default.registry().and_then(|r| of(r.authority(), &self.default));
        let named = self.named.iter().filter_map(|named| of(&named.host, &named.origin));
        default.into_iter().chain(named).collect()
    }

    /// Whether any registry will do.
    pub fn takes_all(&self) -> bool {
        self.others.is_some()
    }

    /// The repository that a request means: `namespace` is its `?ns=`, `path` the name in its path,
    /// before which a registry may stand.
    ///
    /// # Errors
    /// [`UnknownRegistry`].
    pub fn find(&self, namespace: Option<&str>, path: &str) -> Result<Repository, UnknownRegistry> {
        if let Some(host) = namespace {
            return self.of_host(host, path);
        }
        if let Some((host, rest)) = split_host(path) {
            let known = self.is_default(&host) || self.named(&host).is_some();
            // A repository of the default registry may be called like a host.
            if known || self.takes_all() || self.only().is_none() {
                return self.of_host(&host, rest);
            }
        }
        match self.only() {
            Some((host, origin)) => Ok(Repository { host, origin, name: path.to_owned() }),
            None => Err(UnknownRegistry::Ambiguous(self.known_list())),
        }
    }

    fn of_host(&self, host: &str, name: &str) -> Result<Repository, UnknownRegistry> {
        let name = name.to_owned();
        if let Some(named) = self.named(host) {
            let (host, origin) = (Some(named.host.clone()), named.origin.clone());
            return Ok(Repository { host, origin, name });
        }
        // A layout is everybody's; without any registry there are peers to ask.
        let takes_any = match &*self.default {
            Origin::Layout(_) => true,
            Origin::None => self.named.is_empty() && !self.takes_all(),
            Origin::Registry(_) => false,
        };
        if takes_any || self.is_default(host) {
            return Ok(Repository { host: None, origin: self.default.clone(), name });
        }
        let Some(others) = &self.others else {
            let (host, known) = (host.to_owned(), self.known_list());
            return Err(UnknownRegistry::NotConfigured { host, known });
        };
        let host: Rc<str> = Rc::from(host);
        if let Some(origin) = others.borrow_mut().get(&host) {
            return Ok(Repository { host: Some(host), origin: origin.clone(), name });
        }
        let registry = Registry::new(&RegistrySpec::of_host(&host))?;
        let origin = Rc::new(Origin::Registry(registry));
        others.borrow_mut().insert(host.clone(), origin.clone());
        Ok(Repository { host: Some(host), origin, name })
    }

    fn named(&self, host: &str) -> Option<&Named> {
        self.named.iter().find(|named| *named.host == *host)
    }

    fn is_default(&self, host: &str) -> bool {
        self.default.registry().is_some_and(|registry| registry.authority() == host)
    }

    /// The registry that is meant when none is named.
    fn only(&self) -> Option<(Option<Rc<str>>, Rc<Origin>)> {
        match (&*self.default, &self.named[..]) {
            (Origin::None, [one]) => Some((Some(one.host.clone()), one.origin.clone())),
            (Origin::None, [_, _, ..]) => None,
            _ => Some((None, self.default.clone())),
        }
    }

    fn known_list(&self) -> String {
        let hosts: Vec<String> = self.known().into_iter().map(|(host, _)| host).collect();
        if hosts.is_empty() { "no registry".to_owned() } else { hosts.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn registries(upstream: Option<&str>, named: &[&str], all: bool) -> Registries {
        let options = Options {
            node: Some("n".into()),
            upstream: upstream.map(str::to_owned),
            registry: named.iter().map(|text| text.parse().unwrap()).collect(),
            all: Some(all),
            ..Options::default()
        };
        Registries::new(&options.check().unwrap()).unwrap()
    }

    fn find(registries: &Registries, namespace: Option<&str>, path: &str) -> String {
        match registries.find(namespace, path) {
            Ok(found) => {
                let origin = found.origin().name().unwrap_or_default();
                format!("{} {origin}", found.label())
            }
            Err(error) => format!("{error}"),
        }
    }

    #[test]
    fn one_upstream_answers_to_its_name() {
        let one = registries(Some("http://r.example:5000"), &[], false);
        for (namespace, path) in
            [(None, "a/b"), (Some("r.example:5000"), "a/b"), (None, "r.example__5000/a/b")]
        {
            assert_eq!(find(&one, namespace, path), "a/b http://r.example:5000");
        }
        assert_eq!(find(&one, None, "my.team/a"), "my.team/a http://r.example:5000");
        let refused = find(&one, Some("other.example"), "a");
        assert!(refused.contains("not configured for other.example"), "{refused}");
        assert!(refused.contains("r.example:5000"), "{refused}");
    }

    #[test]
    fn several_registries_are_told_apart() {
        let two = registries(None, &["docker.io", "r.example=http://10.0.0.1:5000"], false);
        let hub = "docker.io/library/a https://registry-1.docker.io";
        assert_eq!(find(&two, Some("docker.io"), "library/a"), hub);
        assert_eq!(find(&two, None, "docker.io/library/a"), hub);
        assert_eq!(find(&two, Some("r.example"), "a"), "r.example/a http://10.0.0.1:5000");
        assert!(find(&two, None, "a/b").contains("which registry"));
        assert!(find(&two, None, "q.example/b").contains("not configured for q.example"));
        let one = registries(None, &["docker.io"], false);
        assert_eq!(find(&one, None, "library/a"), hub);
    }

    #[test]
    fn any_registry_will_do_if_the_operator_says_so() {
        let all = registries(Some("http://r.example"), &[], true);
        assert_eq!(find(&all, Some("q.example:1"), "a"), "q.example:1/a https://q.example:1");
        assert_eq!(find(&all, None, "q.example__1/a"), "q.example:1/a https://q.example:1");
        assert_eq!(find(&all, None, "a"), "a http://r.example");
        assert_eq!(find(&registries(None, &[], false), Some("x"), "a"), "a ");
    }
}
