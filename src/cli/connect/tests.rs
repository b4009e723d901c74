use std::future::pending;

use tokio::io::duplex;
use tokio::net::TcpListener;

use super::*;
use crate::amqp::table::{FieldValue, put_entry};
use crate::config::{Environment, Flags, load_text};

fn verdicts(role: &str, policy: &str) -> Vec<&'static str> {
    let info = ServerInfo {
        role: role.to_owned(),
        maxmemory_policy: policy.to_owned(),
        ..ServerInfo::default()
    };
    judge("store", &info).iter().map(|finding| finding.verdict.as_str()).collect()
}

#[test]
fn a_store_must_be_a_master_that_evicts_nothing() {
    assert_eq!(verdicts("master", "noeviction"), ["ok"]);
    assert_eq!(verdicts("slave", "noeviction"), ["ok", "failed"]);
    assert_eq!(verdicts("master", "allkeys-lru"), ["ok", "warning"]);
    assert_eq!(verdicts("master", ""), ["ok", "warning"]);
}

/// A `connection.start` frame with these server properties.
fn start(properties: &[(&str, &str)]) -> Vec<u8> {
    let mut table = Vec::new();
    for (name, value) in properties {
        put_entry(&mut table, name.as_bytes(), &FieldValue::LongStr(value.as_bytes())).expect("short");
    }
    let mut payload = vec![0, 10, 0, 10, 0, 9];
    for long in [&table[..], b"PLAIN AMQPLAIN", b"en_US"] {
        payload.extend_from_slice(&(long.len() as u32).to_be_bytes());
        payload.extend_from_slice(long);
    }
    let mut frame = vec![1, 0, 0];
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(&payload);
    frame.push(0xCE);
    frame
}

/// What is said of a broker that answers the protocol header with these bytes, in pieces of this size, and hangs up.
async fn greeted(answer: &[u8], piece: usize) -> Result<String, String> {
    let (ours, mut theirs) = duplex(1 << 17);
    let broker = async move {
        let mut header = [0; 8];
        theirs.read_exact(&mut header).await.expect("the protocol header");
        assert_eq!(header, PROTOCOL_HEADER);
        for piece in answer.chunks(piece) {
            theirs.write_all(piece).await.expect("read");
            tokio::task::yield_now().await;
        }
    };
    let (greeted, ()) = tokio::join!(greet(ours), broker);
    greeted.map_err(|fault| fault.to_string())
}

#[tokio::test]
async fn a_broker_is_named_by_what_it_says_of_itself() {
    let rabbit = start(&[("product", "RabbitMQ"), ("platform", "Erlang/OTP 25"), ("version", "3.10.8")]);
    for piece in [1, 7, rabbit.len()] {
        assert_eq!(greeted(&rabbit, piece).await.as_deref(), Ok("RabbitMQ 3.10.8 speaks AMQP 0-9-1"));
    }
    assert_eq!(greeted(&start(&[]), 64).await.as_deref(), Ok("speaks AMQP 0-9-1"));
    let hostile = start(&[("product", "R\u{1b}[2J"), ("version", "1")]);
    assert_eq!(greeted(&hostile, 64).await.as_deref(), Ok("R\\u001b[2J 1 speaks AMQP 0-9-1"));
}

#[tokio::test]
async fn what_is_no_broker_is_told_apart() {
    let heartbeat = b"\x08\x00\x00\x00\x00\x00\x00\xce";
    let mut unended = start(&[]);
    *unended.last_mut().expect("a frame") = 0;
    let cases: [(&[u8], &str); 8] = [
        (b"", "closed the connection without a word"),
        (b"\x15\x03\x03\x00\x02\x02\x0a", "it speaks TLS. Write amqps://"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak AMQP 0-9-1"),
        (b"AMQP\x00\x01\x00\x00", "does not speak AMQP 0-9-1"),
        (b"-ERR\r\n", "does not speak AMQP 0-9-1"),
        (heartbeat, "does not speak AMQP 0-9-1"),
        (&start(&[])[..20], "does not speak AMQP 0-9-1"),
        (&unended, "does not speak AMQP 0-9-1"),
    ];
    for (answer, says) in cases {
        let fault = greeted(answer, 64).await.expect_err(says);
        assert!(fault.contains(says), "{answer:?}: {fault}");
    }
}

/// A frame that claims to be huge is not waited for.
#[tokio::test]
async fn no_more_is_read_than_a_greeting_needs() {
    let (ours, mut theirs) = duplex(64);
    theirs.write_all(b"\x01\x00\x00\x7f\xff\xff\xff").await.expect("room");
    assert!(matches!(greet(ours).await, Err(BrokerFault::NotAmqp)));
}

fn config(text: &str) -> Config {
    load_text("oncegate.toml", text, &Environment::new(), &Flags::default()).expect("right")
}

/// A broker that accepts and says nothing is given up after `proxy.connect_timeout`, with TLS and without.
#[tokio::test]
async fn a_silent_broker_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(accepted) = listener.accept().await {
            held.push(accepted);
        }
        pending::<()>().await;
    });
    for scheme in ["amqp", "amqps"] {
        let config = config(&format!(
            "[proxy]\nconnect_timeout = \"50ms\"\nupstream = [\"{scheme}://{address}\"]\n"
        ));
        let fault = ask_broker(&config.proxy.upstream[0], &config).await.expect_err("nothing was said");
        let says = fault.to_string();
        assert!(says.contains("said nothing within proxy.connect_timeout (50ms)"), "{says}");
    }
    silent.abort();
}

/// A plain broker that is dialled with TLS sends back its protocol header and hangs up.
#[tokio::test]
async fn a_plain_port_is_told_from_a_tls_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let config = config(&format!(
        "[proxy]\nupstream = [\"amqps://{}\"]\n",
        listener.local_addr().expect("bound")
    ));
    let broker = async {
        let (mut socket, _) = listener.accept().await.expect("a client");
        let mut hello = [0; 8];
        socket.read_exact(&mut hello).await.expect("the beginning of a TLS hello");
        socket.write_all(&PROTOCOL_HEADER).await.expect("written");
        // The rest of the hello is read, so that the answer is not lost to a reset.
        while socket.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
    };
    let (asked, ()) = tokio::join!(ask_broker(&config.proxy.upstream[0], &config), broker);
    let says = asked.expect_err("it is plain").to_string();
    assert!(says.contains("Nothing speaks TLS there: write amqp://"), "{says}");
}

#[test]
fn what_tls_refuses_comes_with_its_remedy() {
    use rustls::{AlertDescription, CertificateError, Error};
    let cases = [
        (Error::InvalidCertificate(CertificateError::UnknownIssuer), "proxy.upstream_tls.ca"),
        (
            Error::InvalidCertificate(CertificateError::NotValidForName),
            "a name that the broker's certificate carries",
        ),
        (Error::InvalidCertificate(CertificateError::Expired), "clock"),
        (
            Error::AlertReceived(AlertDescription::CertificateRequired),
            "write proxy.upstream_tls.cert and key",
        ),
        (Error::AlertReceived(AlertDescription::UnknownCA), "cacertfile"),
        (Error::DecryptError, "broker's log"),
    ];
    for (error, remedy) in cases {
        let says = broken(io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        assert!(says.starts_with("the TLS handshake failed: ") && says.contains(remedy), "{says}");
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_or_not_redis_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let config = config(&format!("[store]\nurl = \"redis://{address}/0\"\n"));
    let StoreUrl::Redis(redis) = &config.store.url else {
        panic!("not Redis")
    };
    let other = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let findings = ask_store(redis, &config).await;
    assert_eq!((findings.len(), findings[0].verdict), (1, Verdict::Failed), "{findings:?}");
    other.abort();
    // The listener is gone with its task.
    let _ = other.await;
    let findings = ask_store(redis, &config).await;
    assert!(findings[0].says.contains("Is Redis running there"), "{findings:?}");
}

#[test]
fn a_result_backend_must_not_be_too_old() {
    for (version, verdict) in [("5.0.14", "failed"), ("6.0.0", "ok"), ("10.1", "ok"), ("", "ok")] {
        let info = ServerInfo {
            version: version.to_owned(),
            role: "slave".to_owned(),
            ..ServerInfo::default()
        };
        assert_eq!(judge_results("results", &info).verdict.as_str(), verdict, "{version}");
    }
}
