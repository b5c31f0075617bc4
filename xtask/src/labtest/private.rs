//! Private registries through a node: what the registry asks for is asked for, cached or not.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::SLOW;
use super::certificates;
use super::containerd::{self, Containerd};
use super::login;
use super::mirror::{self, ACCEPT, NAME, at_once, reference, with_fixture, with_fixture_at};
use super::podman::{self, Setting};
use super::tokens::{self, TokenService};
use crate::build::Binaries;
use crate::cluster::image::{Image, hex};
use crate::cluster::registry::Served;
use crate::cluster::{Cluster, NODE_PORT, REGISTRY, REGISTRY_PORT, REPOSITORY, TAG};
use crate::image::fixture;
use crate::{http, run};

const USER: &str = "puller";
const PASSWORD: &str = "quiet-bark";
/// That password's bcrypt hash: the only kind which this registry reads.
const HASH: &str = "$2b$04$Gx8PGTXoJzH2JU.bPPgO1uQOZg0wp2wvWW.OwhUQ9/V/sL46iB2pa";
const WRONG: &str = "loud-leaf";
/// Beside the registry.
const TOKEN_PORT: u16 = 5001;
/// Less than a layer takes on a slow link.
const SHORT: Duration = Duration::from_secs(2);
/// Another repository of the same registry: whoever may read it may not read ours.
const ELSEWHERE: &str = "elsewhere";

/// `docker-registry` with a password file.
pub(super) fn with_passwords(programs: &Binaries) -> Result<()> {
    with_private(programs, |cluster| {
        let file = cluster.lab.directory().join("htpasswd");
        fs::write(&file, format!("{USER}:{HASH}\n"))?;
        let auth = format!("{{htpasswd: {{realm: lab, path: {:?}}}}}", file.display().to_string());
        cluster.settings.auth = Some(auth);
        fill(cluster)?;
        let image = Image::read(&cluster.layout)?;
        login::pulls(cluster, &image, USER, PASSWORD)?;
        let clients = Clients::start(cluster)?;
        clients.are_refused(cluster)?;
        clients.are_served(cluster, &image)?;
        clients.are_refused(cluster)?;
        let refused = [("no password", None), ("a wrong password", Some(basic(WRONG)))];
        is_guarded(cluster, &image, &refused, &basic(PASSWORD))
    })
}

/// `docker-registry` with a token service.
pub(super) fn with_tokens(programs: &Binaries) -> Result<()> {
    with_private(programs, |cluster| {
        let service = token_service(cluster, tokens::LIFE)?;
        fill(cluster)?;
        let image = Image::read(&cluster.layout)?;
        login::pulls(cluster, &image, USER, PASSWORD)?;
        let clients = Clients::start(cluster)?;
        clients.are_refused(cluster)?;
        clients.are_served(cluster, &image)?;
        clients.are_refused(cluster)?;
        let bearer = |token: String| format!("Bearer {token}");
        let refused = [
            ("no token", None),
            ("nonsense", Some(bearer("nonsense".into()))),
            ("a token for elsewhere", Some(bearer(service.token(ELSEWHERE)?))),
        ];
        is_guarded(cluster, &image, &refused, &bearer(service.token(REPOSITORY)?))
    })
}

/// Tokens that are good for less time than a layer takes. A node cannot renew them: it tells its
/// client, which goes on where it was, with a new one, here or (containerd 1.6) past the node.
pub(super) fn with_short_tokens(programs: &Binaries) -> Result<()> {
    with_fixture_at(SLOW, programs, 2, &fixture::SMALL, containerd::PACKAGES, |cluster| {
        let _service = token_service(cluster, SHORT)?;
        fill(cluster)?;
        let nodes = cluster.nodes().to_vec();
        let runtimes = nodes.iter().map(|node| Containerd::start(cluster, node));
        let runtimes: Vec<Containerd> = runtimes.collect::<Result<_>>()?;
        let user = format!("{USER}:{PASSWORD}");
        let pull = |runtime: &Containerd| runtime.pull(cluster, &reference(), &["--user", &user]);
        at_once(runtimes.iter().map(pull).collect::<Result<_>>()?)?;
        let served = mirror::asked_of_registry(cluster)?;
        let of_blobs = |it: &&Served| it.agent.starts_with("xylem") && it.is_for_blob();
        let mut statuses = served.iter().filter(of_blobs).map(|it| it.status);
        let ended = statuses.any(|it| it < 300) && statuses.any(|it| it == 401);
        ensure!(ended, "no token has ended in mid-layer");
        for runtime in &runtimes {
            let said = run::output(&mut runtime.run(cluster, &reference())?)?;
            ensure!(said.contains("handler ran"), "the container says `{said}`");
        }
        cluster.all_alive()
    })
}

/// Starts a token service beside the registry that is to be started.
fn token_service(cluster: &mut Cluster, life: Duration) -> Result<TokenService> {
    let address = cluster.lab.host(REGISTRY)?.at(TOKEN_PORT);
    let listener = cluster.lab.within(REGISTRY, || Ok(TcpListener::bind(address)?))?;
    let service = TokenService::start(listener, &basic(PASSWORD), life)?;
    cluster.settings.auth = Some(service.auth(cluster.lab.directory())?);
    Ok(service)
}

/// `docker-registry` with a certificate of an authority that only its nodes know.
pub(super) fn with_own_authority(programs: &Binaries) -> Result<()> {
    with_private(programs, |cluster| {
        let address = cluster.lab.host(REGISTRY)?.address.to_string();
        let files = certificates::for_server(cluster.lab.directory(), &[address, NAME.into()])?;
        cluster.settings.tls = Some((files.certificate, files.key));
        cluster.settings.authority = Some(files.authority);
        fill(cluster)?;
        let image = Image::read(&cluster.layout)?;
        Clients::start(cluster)?.are_served(cluster, &image)
    })
}

fn with_private(programs: &Binaries, test: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    let packages = [containerd::PACKAGES, podman::PACKAGES].concat();
    with_fixture(programs, 2, &fixture::TINY, &packages, |cluster| {
        test(cluster)?;
        cluster.all_alive()
    })
}

/// Starts everything and gives the registry the image, as one who may push.
fn fill(cluster: &mut Cluster) -> Result<()> {
    cluster.start_registry()?;
    let from = format!("oci:{}", cluster.layout.display());
    let credentials = format!("--dest-creds={USER}:{PASSWORD}");
    let more = ["--preserve-digests", &credentials];
    cluster.push_as(&from, &format!("{REPOSITORY}:{TAG}"), &more)?;
    cluster.lab.process(REGISTRY)?.forget();
    mirror::start_nodes(cluster)
}

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{password}")))
}

/// One client of each kind: containerd beside the first node, the others beside the second.
#[derive(Debug)]
struct Clients {
    runtime: Containerd,
    setting: Setting,
}

impl Clients {
    fn start(cluster: &mut Cluster) -> Result<Self> {
        let nodes = cluster.nodes().to_vec();
        let runtime = Containerd::start(cluster, &nodes[0])?;
        Ok(Self { runtime, setting: Setting::new(cluster, &nodes[1])? })
    }

    fn ctr(&self, cluster: &Cluster, password: &str) -> Result<Command> {
        self.runtime.pull(cluster, &reference(), &["--user", &format!("{USER}:{password}")])
    }

    fn skopeo(&self, cluster: &Cluster, to: &str) -> Result<Command> {
        let mut skopeo = self.setting.skopeo(cluster, &reference())?;
        skopeo.arg(format!("oci:{}:latest", cluster.lab.disk().join(to).display()));
        Ok(skopeo)
    }

    fn podman(&self, cluster: &Cluster) -> Result<Command> {
        let mut podman = self.setting.podman(cluster)?;
        podman.args(["pull", "--quiet", &self.setting.policy(), &reference()]);
        Ok(podman)
    }

    /// With the right password the image comes to every client, once from the registry.
    fn are_served(&self, cluster: &mut Cluster, image: &Image) -> Result<()> {
        self.setting.log_in(cluster, USER, PASSWORD)?;
        run::output(&mut self.ctr(cluster, PASSWORD)?)?;
        run::output(&mut self.skopeo(cluster, "copy")?)?;
        image.check(&cluster.lab.disk().join("copy")).context("in what skopeo was given")?;
        run::output(&mut self.podman(cluster)?)?;
        let contained =
            [self.runtime.run(cluster, &reference())?, self.setting.run(cluster, &reference())?];
        for mut container in contained {
            let said = run::output(&mut container)?;
            ensure!(said.contains("uid=0"), "the container says `{said}`");
        }
        mirror::sent_once(cluster, image)
    }

    /// With a wrong password every client ends with the registry's error, whatever nodes have.
    fn are_refused(&self, cluster: &Cluster) -> Result<()> {
        self.setting.log_in(cluster, USER, WRONG)?;
        let skopeo = self.skopeo(cluster, "refused")?;
        for mut command in [self.ctr(cluster, WRONG)?, skopeo, self.podman(cluster)?] {
            let error = run::output(&mut command).err().context("any password will do")?;
            let said = format!("{error:#}").to_lowercase();
            ensure!(said.contains("unauthorized"), "a wrong password is told as {said}");
        }
        Ok(())
    }
}

/// What a node has is given to whom the registry would give it, and only to them.
fn is_guarded(
    cluster: &Cluster,
    image: &Image,
    refused: &[(&str, Option<String>)],
    accepted: &str,
) -> Result<()> {
    let digests = image.blobs().map(|(digest, _)| (format!("blobs/{digest}"), digest));
    let manifests = [TAG, &image.digest].map(|it| (format!("manifests/{it}"), &*image.digest));
    for (path, digest) in digests.chain(manifests) {
        let path = format!("/v2/{REPOSITORY}/{path}");
        for (what, header) in refused {
            is_refused(cluster, &path, header.as_deref())
                .with_context(|| format!("{path} with {what}"))?;
        }
        let answer = ask_node(cluster, &path, Some(accepted))?;
        ensure!(answer.status == 200, "{path} with the right header gets {}", answer.status);
        let found = format!("sha256:{}", hex(&Sha256::digest(&answer.body)));
        ensure!(found == digest, "{path} with the right header gets {found}");
    }
    Ok(())
}

fn ask(
    cluster: &Cluster,
    (host, port): (&str, u16),
    path: &str,
    authorization: Option<&str>,
) -> Result<http::Answer> {
    let authorization = authorization.map(|header| ("Authorization", header));
    let headers: Vec<(&str, &str)> =
        authorization.into_iter().chain([("Accept", ACCEPT)]).collect();
    let to = cluster.lab.host(host)?.at(port);
    cluster.lab.within(host, || http::get(to, path, &headers))
}

fn ask_node(cluster: &Cluster, path: &str, header: Option<&str>) -> Result<http::Answer> {
    ask(cluster, (&cluster.nodes()[0], NODE_PORT), &format!("{path}?ns={NAME}"), header)
}

/// The node refuses as the registry does, and asks for the same.
fn is_refused(cluster: &Cluster, path: &str, header: Option<&str>) -> Result<()> {
    let registry = ask(cluster, (REGISTRY, REGISTRY_PORT), path, header)?;
    let node = ask_node(cluster, path, header)?;
    let (found, expected) = (node.status, registry.status);
    ensure!(expected == 401, "the registry answers {expected}");
    ensure!(found == expected, "the node answers {found} instead of {expected}");
    let challenge = |answer: &http::Answer| answer.header("www-authenticate").map(str::to_owned);
    let (found, expected) = (challenge(&node), challenge(&registry));
    ensure!(found.is_some() && found == expected, "asks for {found:?}, not for {expected:?}");
    // The node may have asked by HEAD, which has no body: its words may be others.
    let code = node.json()?.pointer("/errors/0/code").cloned();
    ensure!(code == Some("UNAUTHORIZED".into()), "the error is {code:?}");
    Ok(())
}
