//! Files that the config names: certificates, and secrets kept out of the config.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::address::Transport;
use super::context::Context;
use super::file::{self, Fault};
use super::reader::TableReader;
use super::report::Shown;
use super::setting::Setting;
use super::tables::open;
use super::tree::{Node, Value};
use super::{ClientTls, ControlConfig, ProxyConfig, ServerTls};

/// A certificate and its key belong together, and to a listener or broker that speaks TLS.
pub(super) fn check_tls(table: &TableReader<'_>, proxy: &ProxyConfig) {
    let speaks = |transport: Transport| transport == Transport::Tls;
    let listens = proxy.listen.iter().any(|listen| speaks(listen.transport));
    if listens && proxy.tls.is_none() {
        table.refuse(
            "listen",
            "takes TLS and there is no certificate",
            "Write [proxy.tls] with cert and key.",
        );
    }
    let at = |key: &str| table.node(key).map(|node| node.at);
    if let Some(at) = at("tls").filter(|_| proxy.tls.is_some() && !listens) {
        table.reader().warn(
            at,
            None,
            "[proxy.tls] is not used: no listener is amqps://. Write listen = [\"amqps://…\"].".to_owned(),
        );
    }
}

/// Warns of a `[proxy.upstream_tls]` where nothing that is dialled speaks TLS.
pub(super) fn warn_of_unused_tls(root: &TableReader<'_>, proxy: &ProxyConfig, control: &ControlConfig) {
    let dials = proxy.upstream.iter().any(|upstream| upstream.transport == Transport::Tls) || control.dials_tls();
    if dials || proxy.upstream_tls == ClientTls::default() {
        return;
    }
    let Some(Value::Table(table)) = root.node("proxy").map(|node| &node.value) else {
        return;
    };
    if let Some(entry) = table.get("upstream_tls") {
        let message = "[proxy.upstream_tls] is not used: no upstream is amqps://. Write upstream = [\"amqps://…\"].";
        root.reader().warn(entry.node.at, None, message.to_owned());
    }
}

/// `cert`, `key` and `client_ca` of a listener.
pub(super) fn read_server_tls(parent: &mut TableReader<'_>, path: &'static str) -> Option<ServerTls> {
    let mut table = open(parent, "tls", path);
    let (cert, key) = read_pair(&mut table);
    let client_ca = read_path(&mut table, "client_ca");
    if let (Some(_), None) = (&client_ca, &cert) {
        table.refuse(
            "client_ca",
            "asks for client certificates and there is no cert",
            "Write cert and key beside it.",
        );
    }
    let shown = table.finish();
    parent.show("tls", shown);
    Some(ServerTls {
        cert: cert?,
        key: key?,
        client_ca,
    })
}

pub(super) fn read_client_tls(parent: &mut TableReader<'_>) -> ClientTls {
    let mut table = open(parent, "upstream_tls", "proxy.upstream_tls");
    let ca = read_path(&mut table, "ca");
    let (cert, key) = read_pair(&mut table);
    let shown = table.finish();
    parent.show("upstream_tls", shown);
    ClientTls {
        ca,
        identity: cert.zip(key),
    }
}

/// A certificate and its key, of which one without the other is refused.
fn read_pair(table: &mut TableReader<'_>) -> (Option<PathBuf>, Option<PathBuf>) {
    let pair = (read_path(table, "cert"), read_path(table, "key"));
    for (here, other) in [("cert", "key"), ("key", "cert")] {
        if table.has(here) && !table.has(other) {
            table.refuse(
                here,
                &format!("has no {other} beside it"),
                &format!("Write {other} = \"….pem\" beside it."),
            );
        }
    }
    pair
}

/// The path of a file that must be there.
pub(super) fn read_path(table: &mut TableReader<'_>, key: &'static str) -> Option<PathBuf> {
    let path: PathBuf = table.optional(key)?;
    table.reader().note_file(path.clone());
    match fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_dir() => refuse_directory(table, key),
        Ok(_) => {}
        Err(error) => refuse_unreadable(table, key, &error),
    }
    Some(path)
}

fn refuse_directory(table: &TableReader<'_>, key: &str) {
    table.refuse(key, "is a directory", "Write the path of a file.");
}

fn refuse_unreadable(table: &TableReader<'_>, key: &str, error: &io::Error) {
    let remedy = "Write the path of a file that the user of oncegate may read; paths are relative to the config file.";
    table.refuse(key, &format!("cannot be read: {error}"), remedy);
}

/// The text of a file that [`read_path`] gave, without surrounding white space. There is no silent way out: a secret that is not read must
/// not look like one that was not asked for.
pub(super) fn read_secret_file(table: &TableReader<'_>, key: &str, path: &Path) -> Option<String> {
    match file::read(path) {
        Ok(text) => return Some(text.trim().to_owned()),
        // What read_path has said already is noted once.
        Err(Fault::Missing(error) | Fault::Io(error)) => refuse_unreadable(table, key, &error),
        Err(Fault::Directory) => refuse_directory(table, key),
        Err(fault @ (Fault::TooLarge | Fault::NotUtf8(_))) => {
            table.refuse(key, &fault.says(), "Write the path of a file that holds the secret as text.");
        }
    }
    None
}

/// A secret, given as `key` or in the file that `key_file` names.
pub(super) fn read_secret<T: Setting>(table: &mut TableReader<'_>, key: &'static str, file_key: &'static str) -> Option<T> {
    // Known even where the file is what counts.
    table.entry(key);
    let path = read_path(table, file_key);
    if let Some(path) = path {
        if table.has(key) {
            table.refuse_table(&format!("{key} and {file_key} are both set"), "Keep one of them.");
        }
        let content = read_secret_file(table, file_key, &path)?;
        let reader = table.reader();
        let value = table.read(file_key, Shown::Hidden, |node, cx| {
            let inside = Node {
                at: node.at,
                value: Value::Bare(content.clone()),
            };
            T::read(&inside, &Context { reader, ..*cx })
        });
        table.show(key, value.as_ref().map_or(serde_json::Value::Null, Setting::show));
        return value;
    }
    // Only a URL with credentials in it is hidden: of any other, the text helps.
    let has_password = match table.node(key).map(|node| &node.value) {
        Some(Value::Text(text) | Value::Bare(text)) => text.contains('@'),
        _ => false,
    };
    if has_password {
        table.optional_hidden(key)
    } else {
        table.optional(key)
    }
}
