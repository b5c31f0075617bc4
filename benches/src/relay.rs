//! What every rival relay has in common: its arguments, one connection in and some out.

use crate::{bytes, gate};
use anyhow::{Context, Result};
use clap::Args;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

/// Arguments of a rival relay.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Address to take the one incoming connection on
    #[arg(long)]
    pub listen: SocketAddr,
    /// Address to send to; given once for each reader
    #[arg(long, required = true)]
    pub to: Vec<SocketAddr>,
    /// File to write
    #[arg(long)]
    pub file: PathBuf,
    /// Bytes to reserve for the file
    #[arg(long, value_parser = bytes::parse, default_value = "0")]
    pub size: u64,
}

impl RelayArgs {
    /// Connects to all readers, says `ready`, and takes the sender's connection.
    ///
    /// # Errors
    /// No reader there, or the address is taken.
    pub fn connect(&self) -> Result<(TcpStream, Vec<TcpStream>)> {
        let listener = TcpListener::bind(self.listen)
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let open = |&to: &SocketAddr| -> Result<TcpStream> {
            let socket =
                TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let outputs = self.to.iter().map(open).collect::<Result<_>>()?;
        gate::pass(false)?;
        let (input, _) = listener.accept().context("no sender")?;
        Ok((input, outputs))
    }
}
