//! Control as a process: one port for the nodes' streams and the HTTP API, one clock, one lock
//! around the state.

mod attach;
mod convert;
mod core;
mod http;
mod listen;
mod metrics;
mod preheat;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::serve::ListenerExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::MissedTickBehavior;

use ring::rand::{SecureRandom, SystemRandom};

use self::core::Core;
use crate::limits::{CONNECTIONS_MAX, SHUTDOWN_MAX_MS, TICK_MAX_MS};
use crate::state::Settings;
use crate::tree::ShapeKind;

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shape of the trees.
    pub shape: ShapeKind,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Period of the heartbeat, ms.
    pub heartbeat_ms: u32,
    /// For how long after the start nodes may say which places they hold, ms.
    pub settle_ms: u64,
}

/// Why control does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}, name another address with --listen")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No key can be made for the nodes.
    #[error("the system gives no random numbers")]
    Random,
    /// The listening socket failed.
    #[error("the listening socket failed")]
    Serve(#[source] io::Error),
}

/// A control that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    core: Arc<Core>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub async fn bind(options: Options) -> Result<Self, ServeError> {
        let refused = |source| ServeError::Listen { address: options.listen, source };
        let listener = listen(options.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let Options { shape, heartbeat_ms, settle_ms, .. } = options;
        let mut voucher_key = [0; 32];
        SystemRandom::new().fill(&mut voucher_key).map_err(|_| ServeError::Random)?;
        let settings =
            Settings { shape, heartbeat_ms, settle_ms, first_epoch: first_epoch(), voucher_key };
        Ok(Self { listener, address, core: Arc::new(Core::new(settings)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, then ends all streams and closes.
    ///
    /// # Errors
    /// [`ServeError::Serve`].
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServeError> {
        let Self { listener, core, .. } = self;
        let clock = tokio::spawn(tick(Arc::clone(&core)));
        let listener = listen::Bounded::new(listener).tap_io(|io| io.without_delay());
        let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
        let stop = {
            let core = Arc::clone(&core);
            async move {
                stop.await;
                core.close();
                drop(stopping);
            }
        };
        let serve = axum::serve(listener, http::router(core)).with_graceful_shutdown(stop);
        let patience = async move {
            // Only the drop of the sender ends this wait.
            let _ = stopped.await;
            tokio::time::sleep(Duration::from_millis(SHUTDOWN_MAX_MS)).await;
        };
        let result = tokio::select! {
            result = serve.into_future() => result,
            () = patience => Ok(()),
        };
        clock.abort();
        result.map_err(ServeError::Serve)
    }
}

/// Listens with a queue for all nodes: they come at once when control is back. Whom the queue does
/// not take tries again after 1, 3, 7 s, so the usual 1024 make a crowd of 10,000 wait for half a
/// minute. The system's own bound, `net.core.somaxconn`, holds as well.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_MAX)
}

/// Drives the state's clock, at least four times in each heartbeat.
async fn tick(core: Arc<Core>) {
    let period_ms = (u64::from(core.heartbeat_ms()) / 4).min(TICK_MAX_MS);
    let period = Duration::from_millis(period_ms);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.tick();
    }
}

/// Microseconds since 1970: above all epochs of an earlier control, unless that changed trees every
/// microsecond.
fn first_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}
