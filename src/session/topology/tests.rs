use super::*;

fn name(text: &str) -> Arc<[u8]> {
    Arc::from(text.as_bytes())
}

/// `source -key-> destination`; a destination that begins with `@` is an exchange.
fn binding(text: &str) -> Binding {
    let [source, key, destination] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("three words: {text}")
    };
    Binding {
        source: name(source),
        routing_key: name(key),
        destination: match destination.strip_prefix('@') {
            Some(exchange) => Destination::Exchange(name(exchange)),
            None => Destination::Queue(destination.into()),
        },
    }
}

/// One change: `direct e`, `no-exchange e`, `no-queue q`, `bind e key q`, `bind-x e key q` (with arguments), `unbind e key q`.
fn change(text: &str) -> Change {
    let (what, rest) = text.split_once(' ').expect("two words");
    match what {
        "bind" => Change::Bind(binding(rest), Arguments::None),
        "bind-x" => Change::Bind(binding(rest), Arguments::Some),
        "unbind" => Change::Unbind(binding(rest)),
        "no-exchange" => Change::NoExchange(name(rest)),
        "no-queue" => Change::NoQueue(rest.into()),
        kind => Change::Exchange(name(rest), Kind::named(kind.as_bytes())),
    }
}

fn topology(changes: &str) -> Topology {
    let mut topology = Topology::default();
    for text in changes.split("; ").filter(|text| !text.is_empty()) {
        topology.apply(&change(text));
    }
    topology
}

/// The queues, separated by commas; `?` if they are not known.
fn route(topology: &Topology, exchange: &str, key: &str) -> String {
    topology
        .route(exchange.as_bytes(), key.as_bytes())
        .map_or("?".to_owned(), |queues| queues.join(","))
}

#[test]
fn a_publish_is_routed_as_the_exchange_does() {
    for (changes, exchange, key, queues) in [
        // The default exchange.
        ("", "", "reports", "reports"),
        ("direct e; bind e reports other", "", "reports", "reports"),
        // Nothing known.
        ("", "e", "k", "?"),
        ("direct e", "e", "k", "?"),
        // Direct.
        ("direct e; bind e k q", "e", "k", "q"),
        ("direct e; bind e k q", "e", "other", "?"),
        ("direct e; bind e k q", "f", "k", "?"),
        ("direct e; bind e k q; bind e k r; bind e l s", "e", "k", "q,r"),
        ("direct e; bind e # q", "e", "k", "?"),
        ("bind amq.direct k q", "amq.direct", "k", "q"),
        // Fanout.
        ("fanout e; bind e k q; bind e l r; bind f k s", "e", "anything", "q,r"),
        ("bind amq.fanout k q", "amq.fanout", "", "q"),
        // Topic.
        (
            "topic e; bind e a.b q; bind e a.* r; bind e a.# s; bind e b.# t",
            "e",
            "a.b",
            "q,r,s",
        ),
        ("topic e; bind e a.b q; bind e a.* r; bind e a.# s; bind e b.# t", "e", "a.b.c", "s"),
        ("topic e; bind e a.* q", "e", "a.*", "q"),
        ("topic e; bind e # q", "e", "", "q"),
        ("bind amq.topic a.* q", "amq.topic", "a.b", "q"),
        // Headers, and types of plugins.
        ("headers e; bind e k q", "e", "k", "?"),
        ("x-consistent-hash e; bind e k q", "e", "k", "?"),
        ("bind amq.headers k q; bind amq.match k q", "amq.match", "k", "?"),
        // Not seen declared: only what direct, fanout and topic agree on.
        ("bind e k q; bind e # r", "e", "k", "q"),
        ("bind e k q; bind e # r", "e", "l", "?"),
        ("bind-x e k q", "e", "k", "?"),
        ("bind-x e k q; direct e", "e", "k", "q"),
        ("direct e; bind-x e k q", "e", "k", "q"),
        ("bind e a.* q; topic e", "e", "a.b", "q"),
    ] {
        assert_eq!(route(&topology(changes), exchange, key), queues, "{changes}: {exchange}, {key}");
    }
}

#[test]
fn exchanges_are_followed_to_the_end_and_only_once() {
    let chain = "direct a; topic b; fanout c; bind a k.l @b; bind b k.* @c; bind c x q; bind c y r; bind b #.l s";
    assert_eq!(route(&topology(chain), "a", "k.l"), "q,r,s");
    assert_eq!(route(&topology(chain), "a", "k.m"), "?");
    assert_eq!(route(&topology(chain), "b", "k.m"), "q,r");
    let ring = "fanout a; fanout b; bind a x @b; bind b x @a; bind b x q";
    assert_eq!(route(&topology(ring), "a", "k"), "q");
    assert_eq!(route(&topology(ring), "b", "k"), "q");
    let own = "fanout a; bind a x @a";
    assert_eq!(route(&topology(own), "a", "k"), "?");
    // What cannot be followed does not hide what can.
    let fork = "fanout a; headers h; bind a x @h; bind h x q; bind a x r";
    assert_eq!(route(&topology(fork), "a", "k"), "r");
}

#[test]
fn what_is_taken_away_is_not_known_any_more() {
    let all = "direct e; topic t; bind e k q; bind e k r; bind t #.k q; bind e k @t";
    for (gone, e, t) in [
        ("unbind e k q", "q,r", "q"),
        ("unbind e k @t; unbind e k q", "r", "q"),
        ("unbind t #.k q", "q,r", "?"),
        ("unbind t #.k q; unbind e k q", "r", "?"),
        ("unbind e other q", "q,r", "q"),
        ("no-queue q", "r", "?"),
        ("no-queue q; no-queue r", "?", "?"),
        ("no-exchange t", "q,r", "?"),
        ("no-exchange e", "?", "q"),
        ("no-exchange e; direct e", "?", "q"),
        ("no-queue q; bind e k q", "q,r", "?"),
    ] {
        let topology = topology(&format!("{all}; {gone}"));
        assert_eq!(
            (route(&topology, "e", "k"), route(&topology, "t", "k")),
            (e.into(), t.into()),
            "{gone}"
        );
        let held: Vec<_> = topology.bindings.from(|_| false).cloned().collect();
        let mut arrived: Vec<_> = topology.arrivals.from(|_| false).map(|(to, from, key)| (from, key, to)).collect();
        arrived.sort();
        assert!(
            held.iter()
                .map(|held| (&held.source, &held.routing_key, &held.destination))
                .eq(arrived),
            "{gone}"
        );
        assert!(topology.wild.from(|_| false).all(|wild| held.contains(wild)), "{gone}");
    }
}

#[test]
fn an_exchange_of_another_type_is_a_new_one() {
    let topology = topology("direct e; bind e k q; bind f k @e; fanout e; bind e x r");
    assert_eq!(route(&topology, "e", "k"), "r");
    assert_eq!(topology.len(), 1);
}

#[test]
fn a_delayed_message_is_followed_from_where_it_comes_out() {
    for prefix in ["", "app_"] {
        let delayed = format!("{}1.1.reports", "0.".repeat(26));
        let delivery = format!("{prefix}celery_delayed_delivery");
        let first = format!("{prefix}celery_delayed_27");
        let last = format!("{prefix}celery_delayed_0");
        let known = format!(
            "topic {first}; topic {delivery}; topic tasks; bind {first} 1.# {first}; bind {delivery} #.reports @tasks; \
             bind tasks #.reports reports; bind tasks reports reports; bind {delivery} #.other @tasks"
        );
        assert_eq!(route(&topology(&known), &first, &delayed), "reports");
        assert_eq!(route(&topology(&known), &last, &delayed), "reports");
        assert_eq!(route(&topology(&known), &first, &delayed.replace("reports", "x")), "?");
        // A key without the digits is a message like any other.
        assert_eq!(route(&topology(&known), &first, "1.reports"), first);
        // A binding that takes the bare key only is not met by what comes out.
        let bare = format!("topic {delivery}; topic tasks; bind {delivery} #.reports @tasks; bind tasks reports reports");
        assert_eq!(route(&topology(&bare), &first, &delayed), "?");
    }
}

#[test]
fn a_change_says_whether_it_is_new() {
    let mut topology = Topology::default();
    for (text, applied) in [
        ("direct e", Applied::New),
        ("direct e", Applied::Known),
        ("direct amq.direct", Applied::Known),
        ("bind e k q", Applied::New),
        ("bind e k q", Applied::Known),
        ("bind  k q", Applied::Known),
        ("unbind e k r", Applied::Known),
        ("unbind e k q", Applied::New),
        ("unbind e k q", Applied::Known),
        ("no-queue q", Applied::Known),
        ("bind e k q", Applied::New),
        ("no-queue q", Applied::New),
        ("no-exchange e", Applied::New),
        ("no-exchange e", Applied::Known),
        ("bind e k q", Applied::New),
        ("no-exchange e", Applied::New),
    ] {
        assert_eq!(topology.apply(&change(text)), applied, "{text}");
    }
    assert!(topology.is_empty());
}

#[test]
fn memory_and_work_are_bounded() {
    let mut topology = topology("fanout e; direct f");
    for number in 0..Topology::MAX {
        let bind = Change::Bind(binding(&format!("e {number} q{number}")), Arguments::None);
        assert_eq!(topology.apply(&bind), Applied::New);
    }
    assert_eq!(topology.apply(&change("bind f k q")), Applied::Full);
    assert_eq!(topology.apply(&change("bind e 7 q7")), Applied::Known);
    assert_eq!((route(&topology, "f", "k"), topology.len()), ("?".to_owned(), Topology::MAX));
    // More than one decision may look at.
    assert_eq!(route(&topology, "e", "k"), "?");
    topology.apply(&change("no-queue q7"));
    assert_eq!(topology.apply(&change("bind f k q")), Applied::New);
    assert_eq!(route(&topology, "f", "k"), "q");
    topology.apply(&change("no-exchange e"));
    assert_eq!(topology.len(), 1);
}
