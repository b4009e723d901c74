//! One of the stores, with time that the scenario can let pass.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncegate::rules::lock::{
    Acquired, Claim, Committed, Digest, Freed, IfHeld, LockNote, LockRecord, Nonce, ReleaseOn, ReleaseReason, Reply, Request, Running,
    Scope, Signal,
};
use oncegate::rules::source::{Hears, Source};
use oncegate::store::{Client, Clock, Memory, Settings, Store, Unobserved};

/// Nothing that is waited for takes longer, on any machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct ManualClock(AtomicU64);

impl Default for ManualClock {
    fn default() -> ManualClock {
        ManualClock(AtomicU64::new(1_800_000_000_000))
    }
}

impl ManualClock {
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A Redis of the test's own.
pub struct RedisServer {
    child: Child,
    directory: std::path::PathBuf,
    pub port: u16,
    extra: Vec<String>,
}

impl RedisServer {
    pub fn start(extra: &[&str]) -> RedisServer {
        RedisServer::start_in(|_, port| {
            let extra = extra.iter().map(ToString::to_string);
            ["--port".into(), port.to_string()].into_iter().chain(extra).collect()
        })
    }

    /// One that speaks TLS only, with a certificate of an authority of its own, which is returned in PEM.
    pub fn start_tls() -> (RedisServer, Vec<u8>) {
        let server = RedisServer::start_in(|directory, port| {
            openssl(
                directory,
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-days",
                    "2",
                ],
                &["-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"],
            );
            openssl(
                directory,
                &[
                    "req",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-subj",
                    "/CN=redis",
                ],
                &["-keyout", "server.key", "-out", "server.csr"],
            );
            std::fs::write(directory.join("san"), "subjectAltName=IP:127.0.0.1").expect("a file");
            openssl(
                directory,
                &[
                    "x509",
                    "-req",
                    "-in",
                    "server.csr",
                    "-CA",
                    "ca.pem",
                    "-CAkey",
                    "ca.key",
                    "-CAcreateserial",
                ],
                &["-days", "2", "-extfile", "san", "-out", "server.pem"],
            );
            let file = |name: &str| directory.join(name).display().to_string();
            let files = [
                "--tls-cert-file".into(),
                file("server.pem"),
                "--tls-key-file".into(),
                file("server.key"),
            ];
            let ports = ["--port".into(), "0".into(), "--tls-port".into(), port.to_string()];
            let clients = [
                "--tls-auth-clients".into(),
                "no".into(),
                "--tls-ca-cert-file".into(),
                file("ca.pem"),
            ];
            files.into_iter().chain(ports).chain(clients).collect()
        });
        let authority = std::fs::read(server.directory.join("ca.pem")).expect("the certificate");
        (server, authority)
    }

    fn start_in(extra: impl FnOnce(&std::path::Path, u16) -> Vec<String>) -> RedisServer {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let directory = std::env::temp_dir().join(format!("oncegate-store-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let extra = extra(&directory, port);
        let child = RedisServer::spawn(&directory, &extra);
        let server = RedisServer {
            child,
            directory,
            port,
            extra,
        };
        server.wait_ready();
        server
    }

    fn spawn(directory: &std::path::Path, extra: &[String]) -> Child {
        Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(directory)
            .args(extra)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed: apt-get install redis-server")
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(done.expect("kill runs").success());
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("redis-server dies");
        self.child.wait().expect("redis-server is gone");
    }

    /// Starts it anew on the same port, empty.
    pub fn restart(&mut self) {
        self.child = RedisServer::spawn(&self.directory, &self.extra);
        self.wait_ready();
    }

    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a client");
        client.get_multiplexed_async_connection().await.expect("a connection")
    }
}

fn openssl(directory: &std::path::Path, first: &[&str], second: &[&str]) {
    let done = Command::new("openssl")
        .args(first)
        .args(second)
        .current_dir(directory)
        .stderr(Stdio::null())
        .status();
    assert!(done.expect("openssl must be installed: apt-get install openssl").success());
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub fn settings(url: String) -> Settings {
    Settings {
        url,
        prefix: "og[test]*".into(),
        timeout: Duration::from_millis(250),
        proxy: "proxy-1".into(),
        ca: None,
    }
}

/// Generous, for scenarios in which a slow machine must not look like a broken store.
pub fn patient(url: String) -> Settings {
    Settings {
        timeout: PATIENCE,
        ..settings(url)
    }
}

enum Kind {
    Memory(Arc<ManualClock>, Arc<Memory>),
    Redis(RedisServer),
}

pub struct World {
    kind: Kind,
    pub store: Store,
    pub client: Client,
}

impl World {
    pub fn memory() -> World {
        let clock = Arc::new(ManualClock::default());
        let memory = Arc::new(Memory::new(clock.clone(), "proxy-1".into()));
        let store = Store::memory(memory.clone(), Arc::new(Unobserved));
        World {
            kind: Kind::Memory(clock, memory),
            client: store.client(),
            store,
        }
    }

    pub fn redis() -> World {
        let server = RedisServer::start(&[]);
        let store = Store::open(&patient(server.url()), Arc::new(Unobserved)).expect("a store");
        World {
            kind: Kind::Redis(server),
            client: store.client(),
            store,
        }
    }

    /// The same locks as another process sees them.
    pub fn elsewhere(&self) -> Store {
        match &self.kind {
            Kind::Memory(_, memory) => Store::memory(memory.clone(), Arc::new(Unobserved)),
            Kind::Redis(server) => Store::open(&patient(server.url()), Arc::new(Unobserved)).expect("a store"),
        }
    }

    /// Whether time passes only as the scenario lets it.
    pub fn time_is_ours(&self) -> bool {
        matches!(self.kind, Kind::Memory(..))
    }

    /// Lets this much time pass, where it does not pass by itself.
    pub fn pass(&self, ms: u64) {
        if let Kind::Memory(clock, _) = &self.kind {
            clock.advance(ms);
        }
    }

    /// Lets time pass until `condition` holds.
    pub async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < deadline, "never: {what}");
            match &self.kind {
                Kind::Memory(clock, _) => {
                    clock.advance(1);
                    tokio::time::sleep(Duration::from_micros(100)).await;
                }
                Kind::Redis(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// What must hold of a store after every scenario: each key of Redis has an end.
    pub async fn check(&self) {
        if let Kind::Redis(server) = &self.kind {
            let mut connection = server.connection().await;
            let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("the keys");
            for key in keys {
                let ttl: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.expect("a ttl");
                // -2: it has lapsed between the two questions.
                assert!(ttl >= 0 || ttl == -2, "{} lives for ever", String::from_utf8_lossy(&key));
                assert!(key.starts_with(b"og[test]*:"), "{} is not ours", String::from_utf8_lossy(&key));
            }
        }
    }

    pub async fn ask(&self, request: Request) -> Reply {
        self.client.ask(request).await.expect("the store answers")
    }

    pub async fn acquire(&self, claim: &Claim, publish: u64, note: &Arc<LockNote>) -> Acquired {
        self.acquire_as(claim, publish, note, false).await
    }

    pub async fn acquire_as(&self, claim: &Claim, publish: u64, note: &Arc<LockNote>, reentrant: bool) -> Acquired {
        let request = Request::Acquire {
            claim: claim.clone(),
            publish: Nonce(publish),
            note: note.clone(),
            reentrant,
        };
        match self.ask(request).await {
            Reply::Acquire(acquired) => acquired,
            other => panic!("{other:?}"),
        }
    }

    pub async fn commit(&self, claim: &Claim, publish: u64, note: &Arc<LockNote>) -> Committed {
        match self
            .ask(Request::Commit {
                claim: claim.clone(),
                publish: Nonce(publish),
                note: note.clone(),
            })
            .await
        {
            Reply::Commit(committed) => committed,
            other => panic!("{other:?}"),
        }
    }

    pub async fn renew(&self, claim: &Claim, publish: u64, note: &Arc<LockNote>) {
        let request = Request::RenewLease {
            claim: claim.clone(),
            publish: Nonce(publish),
            note: note.clone(),
        };
        assert_eq!(self.ask(request).await, Reply::Done);
    }

    async fn released(&self, request: Request) -> Vec<Freed> {
        match self.ask(request).await {
            Reply::Released(freed) | Reply::Outlived { freed, .. } => freed,
            other => panic!("{other:?}"),
        }
    }

    pub async fn unpublish(&self, claim: &Claim, publish: u64, reason: ReleaseReason) -> Vec<Freed> {
        self.released(Request::Unpublish {
            claim: claim.clone(),
            publish: Nonce(publish),
            reason,
        })
        .await
    }

    /// The reasons for which locks were freed.
    pub async fn signal(&self, id: &str, settlement: u64, signal: Signal) -> Vec<ReleaseReason> {
        let freed = self
            .released(Request::Signal {
                id: id.into(),
                settlement: Nonce(settlement),
                signal,
                source: Source::Ack,
                worker: "".into(),
            })
            .await;
        freed.into_iter().map(|freed| freed.reason).collect()
    }

    pub async fn release(&self, digest: Digest, holder: Option<&str>) -> Vec<Freed> {
        self.release_if(digest, holder, Running::Include).await
    }

    pub async fn release_if(&self, digest: Digest, holder: Option<&str>, running: Running) -> Vec<Freed> {
        self.released(Request::Release {
            digest,
            holder: holder.map(Into::into),
            running,
        })
        .await
    }

    pub async fn show(&self, digest: Digest) -> Option<LockRecord> {
        match self.ask(Request::Show { digest }).await {
            Reply::Lock(lock) => lock.map(|lock| *lock),
            other => panic!("{other:?}"),
        }
    }

    pub async fn show_run(&self, digest: Digest) -> Option<LockRecord> {
        match self.ask(Request::ShowRun { digest }).await {
            Reply::Lock(run) => run.map(|run| *run),
            other => panic!("{other:?}"),
        }
    }

    /// For how long the lock was given, counted from its taking; `None` if nobody holds it.
    pub async fn span(&self, digest: Digest) -> Option<u64> {
        self.show(digest).await.map(|lock| lock.expires_ms - lock.since_ms)
    }

    pub async fn holder(&self, digest: Digest) -> Option<String> {
        self.show(digest).await.map(|lock| lock.holder.to_string())
    }
}

pub fn digest(key: u8) -> Digest {
    Digest([key; 32])
}

pub fn claim(key: u8, id: &str) -> Claim {
    Claim {
        digest: digest(key),
        id: id.into(),
    }
}

pub fn acquire(claim: &Claim, publish: u64, note: &Arc<LockNote>, reentrant: bool) -> Request {
    Request::Acquire {
        claim: claim.clone(),
        publish: Nonce(publish),
        note: note.clone(),
        reentrant,
    }
}

pub fn commit(claim: &Claim, publish: u64, note: &Arc<LockNote>) -> Request {
    Request::Commit {
        claim: claim.clone(),
        publish: Nonce(publish),
        note: note.clone(),
    }
}

pub fn unpublish(claim: &Claim, publish: u64, reason: ReleaseReason) -> Request {
    Request::Unpublish {
        claim: claim.clone(),
        publish: Nonce(publish),
        reason,
    }
}

pub fn signal(id: &str, settlement: u64, signal: Signal) -> Request {
    Request::Signal {
        id: id.into(),
        settlement: Nonce(settlement),
        signal,
        source: Source::Ack,
        worker: "".into(),
    }
}

pub const LEASE: u64 = 100_000;
pub const LIFE: u64 = 1_000_000;
pub const GRACE: u64 = 20_000;
pub const COOLDOWN: u64 = 50_000;
pub const UNSTARTED: u64 = 300_000;

pub fn note_with(scope: Scope, change: impl FnOnce(&mut LockNote)) -> Arc<LockNote> {
    let mut note = LockNote {
        rule: "reports".into(),
        task: "reports.generate".into(),
        summary: "customer_id".into(),
        vhost: "shop".into(),
        queue: "celery".into(),
        scope,
        shadow: false,
        life_ms: LIFE,
        lease_ms: LEASE,
        settle_grace_ms: GRACE,
        acks_late: false,
        hears: Hears::ALL,
        release_on: ReleaseOn::Both,
        cooldown_ms: 0,
        owed: oncegate::rules::owed::Owed::Nothing,
        if_held: IfHeld::Yield,
        unstarted_ms: None,
    };
    change(&mut note);
    Arc::new(note)
}

pub fn note(scope: Scope) -> Arc<LockNote> {
    note_with(scope, |_| {})
}

pub fn late() -> Arc<LockNote> {
    note_with(Scope::UntilFinished, |note| note.acks_late = true)
}

/// With a lease that lapses while the scenario waits.
pub fn short_lease(scope: Scope) -> Arc<LockNote> {
    note_with(scope, |note| note.lease_ms = 20)
}
