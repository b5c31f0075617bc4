//! The block that asks a node first, in the text of a `hosts.toml`: put in, found, taken out again
//! byte for byte. Pure: files are others' business.
//!
//! Nothing is kept beside the file to restore it from, so the block itself says all that is needed:
//! - The block is whole lines between two marks, ended the way the file's first line ends. Taking
//!   out exactly those lines restores what was around them.
//! - A file whose last line has no end gets the block with a line end in front and none behind.
//!   A closing mark without line end says so, and the one in front is taken out with it.
//! - A file that was not there before is marked as such, with the number of directories that were
//!   made for it: an empty file and no file are not the same.

use std::ops::Range;

use toml::Table;

use super::syntax::{Syntax, parse};
use crate::cli::client::Endpoint;
use crate::limits::DIRECTORIES_MAX;

const BEGIN: &str = "# >>> xylem";
const END: &str = "# <<< xylem";
const HOST_OPENS: &str = "[host.\"";
const HOST_ENDS: &str = "\"]";
const CAPABILITIES: &str = "  capabilities = [\"pull\", \"resolve\"]";
const WITH_FILE: &str = " (with this file)";
const WITH_DIRECTORIES: (&str, &str) = (" (with this file and directories: ", ")");
const HEAD: &str =
    "# Written by `xylem install containerd`; `xylem uninstall containerd` takes it away.\n";
const NO_SERVER: &str =
    "# No `server` here: what the node does not answer, containerd asks the registry itself.\n";

/// Why a text is left as it is.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum BlockError {
    #[error("is {0}")]
    Toml(#[source] Syntax),
    #[error("already asks {0}, outside of Xylem's block")]
    Present(String),
    #[error("has a block of Xylem's that was edited: take out {BEGIN:?} to {END:?} by hand")]
    Edited,
    #[error("names its hosts otherwise than by [host.\"URL\"] tables: add the node by hand")]
    Hosts,
    #[error("has no place where a host can be added: add the node by hand")]
    Place,
}

/// What was made together with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// Nothing: the file was there.
    Block,
    /// The file, and so many of the directories above it.
    File { directories: u32 },
}

/// A block as it was written, nothing edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) node: Endpoint,
    pub(super) made: Made,
    eol: &'static str,
    /// From the opening mark to the end of the closing one.
    lines: Range<usize>,
    /// The same with the line end that came with it.
    whole: Range<usize>,
}

fn render(node: &Endpoint, made: Made, eol: &str) -> String {
    let with = match made {
        Made::Block => String::new(),
        Made::File { directories: 0 } => WITH_FILE.to_owned(),
        Made::File { directories } => {
            format!("{}{directories}{}", WITH_DIRECTORIES.0, WITH_DIRECTORIES.1)
        }
    };
    let node = node.as_str();
    [&format!("{BEGIN}{with}"), &format!("{HOST_OPENS}{node}{HOST_ENDS}"), CAPABILITIES, END]
        .join(eol)
}

/// The text of a file that is all ours.
pub(super) fn file(server: Option<&str>, node: &Endpoint, directories: u32) -> String {
    let server = match server {
        Some(url) => format!("server = \"{url}\"\n"),
        None => NO_SERVER.to_owned(),
    };
    format!("{HEAD}{server}\n{}\n", render(node, Made::File { directories }, "\n"))
}

/// Whether the text is exactly one of [`file()`]'s.
pub(super) fn is_file(text: &str, block: &Block) -> bool {
    let Made::File { directories } = block.made else { return false };
    let Ok(table) = parse(text) else { return false };
    let server = table.get("server").and_then(toml::Value::as_str);
    text == file(server, &block.node, directories)
}

/// The block in a text.
///
/// # Errors
/// [`BlockError::Edited`] where marks stand but not around what was written there.
pub(super) fn find(text: &str) -> Result<Option<Block>, BlockError> {
    let marks: Vec<_> = lines(text)
        .filter(|(_, line)| [BEGIN, END].iter().any(|mark| line.trim_start().starts_with(mark)))
        .collect();
    match marks.as_slice() {
        [] => Ok(None),
        [(from, opening), (last, _)] => {
            block(text, *from, opening, *last).map(Some).ok_or(BlockError::Edited)
        }
        _ => Err(BlockError::Edited),
    }
}

/// The block whose marks begin at `from` and `last`, if it is as [`render`] makes it.
fn block(text: &str, from: usize, opening: &str, last: usize) -> Option<Block> {
    let eol = if opening.ends_with("\r\n") { "\r\n" } else { "\n" };
    let made = match opening.trim_end().strip_prefix(BEGIN)? {
        "" => Made::Block,
        WITH_FILE => Made::File { directories: 0 },
        with => {
            let (before, after) = WITH_DIRECTORIES;
            let count = with.strip_prefix(before)?.strip_suffix(after)?;
            let directories = count.parse().ok().filter(|count| *count <= DIRECTORIES_MAX)?;
            Made::File { directories }
        }
    };
    let host = text[from + opening.len()..].lines().next()?;
    let node: Endpoint = host.strip_prefix(HOST_OPENS)?.strip_suffix(HOST_ENDS)?.parse().ok()?;
    let end = last + END.len();
    let same = text.get(from..end)? == render(&node, made, eol);
    let whole = match text.get(end..)? {
        "" => from - if text[..from].ends_with(eol) { eol.len() } else { 0 }..end,
        rest if rest.starts_with(eol) => from..end + eol.len(),
        _ => return None,
    };
    same.then_some(Block { node, made, eol, lines: from..end, whole })
}

/// The text with the block put in, so that the node is asked before all other hosts.
///
/// # Errors
/// All of [`BlockError`]: a text that could not be restored from the result is not touched.
pub(super) fn insert(text: &str, node: &Endpoint) -> Result<String, BlockError> {
    let table = parse(text).map_err(BlockError::Toml)?;
    if find(text)?.is_some() {
        return Err(BlockError::Edited);
    }
    if let Some(present) = hosts(&table).find(|host| is_node(host, node)) {
        return Err(BlockError::Present(present.to_owned()));
    }
    let at = match place(text) {
        Some(at) => at,
        None if hosts(&table).next().is_some() => return Err(BlockError::Hosts),
        None => text.len(),
    };
    let eol = match text.find('\n') {
        Some(end) if text[..end].ends_with('\r') => "\r\n",
        _ => "\n",
    };
    let (before, after) = text.split_at(at);
    let added = render(node, Made::Block, eol);
    let open_end = after.is_empty() && !before.is_empty() && !before.ends_with('\n');
    let result = if open_end {
        format!("{before}{eol}{added}")
    } else {
        format!("{before}{added}{eol}{after}")
    };
    let restored = find(&result)?.map(|block| remove(&result, &block));
    let fits = restored.as_deref() == Some(text) && says_the_same(&result, text, node);
    if fits { Ok(result) } else { Err(BlockError::Place) }
}

/// The text without the block.
pub(super) fn remove(text: &str, block: &Block) -> String {
    format!("{}{}", &text[..block.whole.start], &text[block.whole.end..])
}

/// The text with the block for this node, whichever it was for.
///
/// # Errors
/// [`BlockError::Toml`], and [`BlockError::Present`] where the node stands beside the block.
pub(super) fn renew(text: &str, block: &Block, node: &Endpoint) -> Result<String, BlockError> {
    let table = parse(text).map_err(BlockError::Toml)?;
    if *node == block.node {
        return Ok(text.to_owned());
    }
    if let Some(present) = hosts(&table).find(|host| is_node(host, node)) {
        return Err(BlockError::Present(present.to_owned()));
    }
    let added = render(node, block.made, block.eol);
    Ok(format!("{}{added}{}", &text[..block.lines.start], &text[block.lines.end..]))
}

/// Whether the block is all that a text says more than another does. False where keys were written
/// behind the block, which belong to its table.
pub(super) fn says_the_same(with: &str, without: &str, node: &Endpoint) -> bool {
    let (Ok(mut with), Ok(mut without)) = (parse(with), parse(without)) else { return false };
    for table in [&mut with, &mut without] {
        if let Some(hosts) = table.get_mut("host").and_then(toml::Value::as_table_mut) {
            hosts.remove(node.as_str());
            if hosts.is_empty() {
                table.remove("host");
            }
        }
    }
    // As text, because a number that is none differs from itself.
    with.to_string() == without.to_string()
}

/// The URLs that a `hosts.toml` asks before its `server`.
pub(super) fn hosts(table: &Table) -> impl Iterator<Item = &str> {
    let hosts = table.get("host").and_then(toml::Value::as_table);
    hosts.into_iter().flat_map(|hosts| hosts.keys().map(String::as_str))
}

/// Whether a URL means the node.
pub(super) fn is_node(host: &str, node: &Endpoint) -> bool {
    host.parse::<Endpoint>().is_ok_and(|host| host == *node)
}

/// Where the first table of a host begins, with the comment on it.
fn place(text: &str) -> Option<usize> {
    let outside = |at: usize| parse(&text[..at]).is_ok_and(|table| !table.contains_key("host"));
    let is_host = |line: &str| {
        line.trim_start().starts_with('[')
            && parse(line).is_ok_and(|table| table.get("host").is_some_and(toml::Value::is_table))
    };
    let (header, _) = lines(text).find(|(at, line)| is_host(line) && outside(*at))?;
    let mut commented = header;
    for (at, line) in lines(&text[..header]) {
        if !line.trim_start().starts_with('#') {
            commented = header;
        } else if commented == header {
            commented = at;
        }
    }
    Some(if outside(commented) { commented } else { header })
}

/// Lines with their ends, and where each begins.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |at, line| {
        let begin = *at;
        *at += line.len();
        Some((begin, line))
    })
}

#[cfg(test)]
mod tests;
