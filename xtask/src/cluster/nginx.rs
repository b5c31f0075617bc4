//! nginx as a proxy in the lab: the frame of its configuration, and how it is started.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// Writes `DIRECTORY/nginx.conf` and returns the command that runs it in the foreground: one server
/// at `listen` that passes on to `upstream`. `site` are lines for the server and what is around it,
/// `place` those for the one location.
pub(crate) fn proxy(
    directory: &Path,
    (listen, upstream): (&str, &str),
    site: &str,
    place: &str,
) -> Result<Command> {
    let config = directory.join("nginx.conf");
    fs::write(&config, frame(directory, (listen, upstream), site, place))
        .context("cannot write nginx's configuration")?;
    let mut nginx = run::command("nginx");
    nginx.arg("-p").arg(directory).arg("-c").arg(&config).args(["-e", "stderr"]);
    Ok(nginx)
}

fn frame(directory: &Path, (listen, upstream): (&str, &str), site: &str, place: &str) -> String {
    let directory = directory.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {directory}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/nginx.pid;\n\
         error_log stderr error;\n\
         events {{ worker_connections 512; }}\nhttp {{\n{temporary}\
         \x20 access_log off;\n{site}\
         \x20 server {{\n    listen {listen};\n    location / {{\n\
         \x20     proxy_pass http://{upstream};\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Connection \"\";\n{place}\
         \x20   }}\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_closed() {
        let text = frame(Path::new("/x"), ("10.0.0.1:1", "10.0.0.2:2"), "  a;\n", "      b;\n");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        let at = |what| text.find(what).expect(what);
        assert!(at("  a;\n") < at("server {") && at("location / {") < at("      b;\n"));
        assert!(text.contains("listen 10.0.0.1:1;") && text.contains("http://10.0.0.2:2;"));
    }
}
