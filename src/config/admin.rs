//! `[admin]` and its tokens.

use super::address::HostPort;
use super::reader::TableReader;
use super::report::Reader;
use super::secrets::{read_path, read_secret_file, read_server_tls};
use super::source::Span;
use super::tables::open;
use super::tree::Table;
use super::unit::Secret;
use super::{AdminConfig, AdminToken, Role};

pub(super) fn read_admin(root: &mut TableReader<'_>) -> AdminConfig {
    let mut table = open(root, "admin", "admin");
    let listen = table.get(
        "listen",
        HostPort {
            host: "127.0.0.1".to_owned(),
            port: 9672,
        },
    );
    let probes_listen = table.optional("probes_listen");
    let hosts: Vec<String> = table.get("hosts", Vec::new());
    if hosts.iter().any(|host| host.is_empty() || host.contains(['/', '*', ' '])) {
        table.refuse(
            "hosts",
            "is not a list of host names",
            "Write names as they stand in the Host header, such as [\"oncegate.example\"].",
        );
    }
    let tls = read_server_tls(&mut table, "admin.tls");
    let mut tokens = Vec::new();
    let mut shown = Vec::new();
    for (token, at) in table.tables("token") {
        shown.push(read_token(table.reader(), token, Some(at), &mut tokens));
    }
    table.show("token", shown.into());
    if !listen.is_loopback() && !table.has("token") {
        let remedy = "Write [[admin.token]] with name, file and role, or listen on 127.0.0.1.";
        table.refuse("listen", "is reached from other machines and there is no token", remedy);
    }
    let shown = table.finish();
    root.show("admin", shown);
    AdminConfig {
        listen,
        probes_listen,
        hosts,
        tls,
        tokens,
    }
}

/// One `[[admin.token]]`; a right one is added to those before it.
pub(super) fn read_token(reader: &Reader, table: &Table, at: Option<Span>, tokens: &mut Vec<AdminToken>) -> serde_json::Value {
    let mut table = TableReader::new(reader, "admin.token", Some(table), at);
    let name: Option<String> = table.optional("name");
    let file = read_path(&mut table, "file");
    let role = table.choice("role", Role::Read, &[("read", Role::Read), ("operate", Role::Operate)]);
    for (key, remedy) in [
        ("name", "Write name = \"…\", which the audit log shows."),
        ("file", "Write file = \"…\", which holds the token."),
    ] {
        if !table.has(key) {
            table.refuse_table(&format!("[[admin.token]] has no {key}"), remedy);
        }
    }
    if let (Some(name), Some(file)) = (name, file) {
        if tokens.iter().any(|token| token.name == name) {
            table.refuse("name", "is the name of an earlier token", "Write another name.");
        }
        if let Some(text) = read_secret_file(&table, "file", &file) {
            let secret = Secret::new(text);
            if secret.expose().is_empty() {
                table.refuse(
                    "file",
                    "is empty",
                    "Put the token into it, for example the output of: openssl rand -hex 32",
                );
            }
            tokens.push(AdminToken { name, file, role, secret });
        }
    }
    table.finish()
}
