//! The block in the texts that users write: it comes first, and takes nothing with it when it goes.

use proptest::prelude::*;

use super::*;

fn node() -> Endpoint {
    "http://127.0.0.1:4400".parse().unwrap()
}

fn block(eol: &str) -> String {
    let lines = [
        "# >>> xylem",
        "[host.\"http://127.0.0.1:4400\"]",
        "  capabilities = [\"pull\", \"resolve\"]",
        "# <<< xylem",
    ];
    lines.join(eol)
}

#[track_caller]
fn becomes(before: &str, after: &str) {
    let inserted = insert(before, &node()).unwrap();
    assert_eq!(inserted, after);
    let found = find(&inserted).unwrap().unwrap();
    assert_eq!((found.made, &found.node), (Made::Block, &node()));
    assert_eq!(remove(&inserted, &found), before);
}

#[test]
fn the_node_is_asked_before_all_others() {
    let block = block("\n");
    let server = "server = \"https://r\"\n";
    let other = "[host.\"http://b\"]\n  skip_verify = true\n";
    becomes(&format!("{server}\n{other}"), &format!("{server}\n{block}\n{other}"));
    becomes(&format!("{server}\n# b\n#\n{other}"), &format!("{server}\n{block}\n# b\n#\n{other}"));
    becomes(
        &format!("{server}[header]\nx = \"1\"\n{other}"),
        &format!("{server}[header]\nx = \"1\"\n{block}\n{other}"),
    );
    becomes(&format!("[host]\n{other}"), &format!("{block}\n[host]\n{other}"));
    becomes("  [ host . 'http://b' ]", &format!("{block}\n  [ host . 'http://b' ]"));
    let text = "a = \"\"\"\n# no comment\n[host.x]\n\"\"\"\nb = [\n[1],\n]\n";
    becomes(&format!("{text}{other}"), &format!("{text}{block}\n{other}"));
    becomes(&format!("a = '''\n# '''\n{other}"), &format!("a = '''\n# '''\n{block}\n{other}"));
}

#[test]
fn line_ends_are_kept() {
    let (lf, crlf) = (block("\n"), block("\r\n"));
    becomes("", &format!("{lf}\n"));
    becomes("\n", &format!("\n{lf}\n"));
    becomes("# c", &format!("# c\n{lf}"));
    becomes("server = \"s\"", &format!("server = \"s\"\n{lf}"));
    becomes("server = \"s\"\r\n", &format!("server = \"s\"\r\n{crlf}\r\n"));
    becomes("a = 1\r\nb = 2", &format!("a = 1\r\nb = 2\r\n{crlf}"));
    becomes("a = 1\r\n[host.x]\r\n", &format!("a = 1\r\n{crlf}\r\n[host.x]\r\n"));
    becomes("a = 1\n\r\n", &format!("a = 1\n\r\n{lf}\n"));
}

#[test]
fn what_is_refused() {
    let refusal = |text: &str| insert(text, &node()).unwrap_err().to_string();
    assert!(refusal("server = ").contains("no valid TOML in line 1"));
    assert!(refusal("a = 1\r").contains("no valid TOML"));
    for same in ["http://127.0.0.1:4400", "http://127.0.0.1:4400/", "HTTP://127.0.0.1:4400"] {
        let text = format!("[host.\"{same}\"]\n");
        assert_eq!(refusal(&text), format!("already asks {same}, outside of Xylem's block"));
    }
    for other in ["host.\"http://b\".ca = 1\n", "host = { \"http://b\" = {} }", "[[host]]\na = 1"] {
        let said = refusal(other);
        assert!(said.contains("add the node by hand"), "{other}: {said}");
    }
    for place in ["host = {}\n", "host = 5\n"] {
        assert!(refusal(place).contains("no place"), "{place}");
    }
    let block = block("\n");
    for edited in [
        block.replace("resolve", "push"),
        block.replace("# <<< xylem", ""),
        block.replace("# >>> xylem", ""),
        format!("{block}\n{}", block.replace("4400", "4401")),
        format!("# <<< xylem\n{block}"),
        block.replace("# <<<", "\u{3000}\u{3000}\u{3000}\u{3000}# <<<"),
        block.replace("\n  cap", "\r\n  cap"),
        block.replace("# >>> xylem", "# >>> xylem (with this file and directories: 17)"),
    ] {
        assert!(matches!(find(&edited), Err(BlockError::Edited)), "{edited}");
        assert!(insert(&edited, &node()).is_err());
    }
}

#[test]
fn a_file_of_its_own() {
    let text = file(Some("https://r.example:5000"), &node(), 1);
    let expected = "\
# Written by `xylem install containerd`; `xylem uninstall containerd` takes it away.
server = \"https://r.example:5000\"

# >>> xylem (with this file and directories: 1)
[host.\"http://127.0.0.1:4400\"]
  capabilities = [\"pull\", \"resolve\"]
# <<< xylem
";
    assert_eq!(text, expected);
    for (server, directories) in [(Some("http://r"), 0), (None, 0), (None, DIRECTORIES_MAX)] {
        let text = file(server, &node(), directories);
        assert!(parse(&text).is_ok());
        let found = find(&text).unwrap().unwrap();
        assert_eq!(found.made, Made::File { directories });
        assert!(is_file(&text, &found));
        for edited in [format!("{text}# mine\n"), text.replace("Written", "written")] {
            let found = find(&edited).unwrap().unwrap();
            assert!(!is_file(&edited, &found));
            assert!(!remove(&edited, &found).contains("xylem\n"));
        }
    }
}

#[test]
fn another_node_takes_the_place() {
    let other: Endpoint = "http://node.example".parse().unwrap();
    for before in ["", "a = 1", "a = 1\r\n[host.x]\r\n"] {
        let first = insert(before, &node()).unwrap();
        let found = find(&first).unwrap().unwrap();
        assert_eq!(renew(&first, &found, &node()).unwrap(), first);
        let renewed = renew(&first, &found, &other).unwrap();
        assert_eq!(renewed, insert(before, &other).unwrap());
    }
    let both = insert("[host.\"http://node.example\"]\n", &node()).unwrap();
    let found = find(&both).unwrap().unwrap();
    assert!(matches!(renew(&both, &found, &other), Err(BlockError::Present(_))));
}

#[test]
fn keys_behind_the_block_belong_to_it() {
    let text = format!("{}\nskip_verify = true\n", block("\n"));
    let found = find(&text).unwrap().unwrap();
    assert!(!says_the_same(&text, &remove(&text, &found), &node()));
    let text = format!("x = nan\n{}\n[host.b]\n", block("\n"));
    let found = find(&text).unwrap().unwrap();
    assert!(says_the_same(&text, &remove(&text, &found), &node()));
}

/// What a line of a `hosts.toml` may be, and what looks like one.
fn line() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "",
        "   ",
        "# comment",
        "  # [host.commented]",
        "server = \"https://r.example\"",
        "ca = [",
        "  \"/etc/ca.pem\",",
        "]",
        "text = \"\"\"",
        "\"\"\"",
        "'''",
        "other = '''",
        "# a \"\"\"",
        "[header]",
        "[host]",
        "  [host.inner.header]",
        "[[host.list]]",
        "[host.\"http://127.0.0.1:4400\"]",
        "host.dotted = 1",
        "# >>> xylem",
        "# <<< xylem",
        "\u{feff}",
        "\"\u{e9}\" = 'x'\t# \u{3000}",
    ]);
    prop_oneof![
        4 => fixed.prop_map(str::to_owned),
        2 => "\\[host\\.[a-e]\\]( # .)?",
        2 => "[a-e]{1,2} = [0-9]",
        1 => "[ -~]{0,12}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    let end = prop::sample::select(vec!["\n", "\n", "\n", "\r\n", "\r"]);
    (prop::collection::vec((line(), end), 0..12), any::<bool>()).prop_map(|(lines, open)| {
        let text: String = lines.iter().flat_map(|(line, end)| [line.as_str(), end]).collect();
        if open { text.trim_end_matches(['\r', '\n']).to_owned() } else { text }
    })
}

/// Texts that are accepted far more often than those of [`text`].
fn hosts_file() -> impl Strategy<Value = String> {
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    let top = prop::collection::vec("(#[ -~]{0,9}|[a-e]{3} = \"[a-z]*\"|)", 0..4);
    let tables = prop::collection::vec("(# [a-z]*\n)?\\[host\\.[a-z]{2}\\]\n( x = 1\n)?\n?", 0..4);
    (top, tables, end, any::<bool>()).prop_map(|(top, tables, end, open)| {
        let text = format!("{}\n{}", top.join("\n"), tables.concat());
        let text = if open { text.trim_end().to_owned() } else { text };
        text.replace('\n', end)
    })
}

fn in_and_out(text: &str) -> Result<(), TestCaseError> {
    let Ok(inserted) = insert(text, &node()) else { return Ok(()) };
    let found = find(&inserted).unwrap().unwrap();
    prop_assert_eq!(remove(&inserted, &found), text);
    let (before, after) = (parse(text).unwrap(), parse(&inserted).unwrap());
    prop_assert!(hosts(&after).any(|host| host == node().as_str()));
    prop_assert_eq!(hosts(&after).count(), hosts(&before).count() + 1);
    // Nothing of a host stands in front of the block.
    let front = parse(&inserted[..found.whole.start]).unwrap();
    prop_assert!(!front.contains_key("host"));
    // Text that an editor puts behind an open end stays, too.
    let longer = format!("{inserted}\n# more\n");
    if let Ok(Some(found)) = find(&longer) {
        prop_assert!(remove(&longer, &found).starts_with(text.trim_end_matches(['\r', '\n'])));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn in_and_out_is_nothing_at_all(text in text()) {
        in_and_out(&text)?;
    }

    #[test]
    fn in_and_out_of_a_hosts_file_is_nothing_at_all(text in hosts_file()) {
        in_and_out(&text)?;
    }

    #[test]
    fn any_text_is_taken_or_refused(
        text in "\\PC{0,40}",
        more in "(# (>>>|<<<) xylem[ -~]{0,12}\n){0,3}",
    ) {
        let text = format!("{text}\n{more}");
        let _ = find(&text);
        in_and_out(&text)?;
    }
}
