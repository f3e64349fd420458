//! Private networks, in labs of their own (see `lab`): what they reach, who reaches them, and that nothing is left.

use std::fs;
use std::net::{TcpListener, UdpSocket};

use crate::environment::ran;
use crate::lab::{HOST, Lab, WORLD, Waiting, Who, eventually, in_lab, sh};

/// The address of a box, as it sees it.
fn address(lab: &Lab, boxed: &Waiting) -> String {
    lab.at(boxed.net(), || {
        let text = sh("ip -4 -o address show dev eth0");
        let word = text.split_whitespace().skip_while(|word| *word != "inet").nth(1).unwrap();
        word.split('/').next().unwrap().to_owned()
    })
}

/// Names of interfaces of the host.
fn links() -> Vec<String> {
    let name = |line: &str| line.split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned();
    sh("ip -o link").lines().map(name).collect()
}

fn state_files() -> Vec<String> {
    let mut files: Vec<String> =
        sh("ls /run/rootling/net/*/").split_whitespace().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn a_box_of_root_reaches_the_world_by_default_and_has_an_address_of_its_own() {
    in_lab(&["nft"], |lab| {
        lab.serve(&lab.world, 7);
        // What we must not touch: another's table, and a route in the range that would be chosen first.
        sh("nft add table ip mine; nft add chain ip mine c '{ type filter hook forward priority 5; }'
            ip route add unreachable 10.200.0.0/16");
        let mine = || sh("nft list table ip mine");
        let doctor = lab.run(Who::Root, &["doctor"]).stdout;
        let line = doctor.lines().find(|line| line.starts_with("private networks  ")).unwrap();
        assert!(
            line.contains(" yes ") && line.contains("the first switches net.ipv4.ip_forward on"),
            "{line}"
        );
        assert_eq!(sh("nft list tables"), "table ip mine\n", "what doctor tried is gone");
        let before = mine();
        let (one, two) = (lab.start(Who::Root, &["run", "base"]), lab.start(Who::Root, &["run", "base"]));
        let (first, second) = (address(lab, &one), address(lab, &two));
        assert!(first != second && first.starts_with("10.201.23"), "{first} {second}");
        assert_eq!(lab.seen_as(one.net(), WORLD, 7).as_deref(), Some(HOST), "by the host's address");
        lab.serve(two.net(), 8);
        assert_eq!(lab.seen_as(one.net(), &second, 8), Some(first), "boxes reach each other");
        let inside =
            lab.ok(Who::Root, &["run", "base", "--", "sh", "-c", "ip -4 -o a; cat /etc/resolv.conf"]);
        assert!(
            inside.contains("eth0") && inside.contains(&format!("nameserver {WORLD}\nsearch lab\n")),
            "{inside}"
        );
        assert_eq!(mine(), before);
        let switch = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap();
        assert_eq!(switch("ipv4/ip_forward"), "1\n");
        assert_eq!(
            switch("ipv6/conf/rootling0/disable_ipv6"),
            "1\n",
            "a box is no router of ours (CVE-2020-13401)"
        );
    });
}

fn published_ports_keep_the_peers_address(lab: &Lab) {
    let ports =
        ["-p", "8080:80", "-p", "0.0.0.0:8081:80", "-p", "0.0.0.0:5300:5353/udp", "-p", "8090-8091:90-91"];
    let boxed = lab.start(Who::Root, &[&["run"], &ports[..], &["base"]].concat());
    let own = address(lab, &boxed);
    let gateway = own.rsplit_once('.').unwrap().0.to_owned() + ".1";
    lab.serve(boxed.net(), 80);
    lab.serve(boxed.net(), 91);
    lab.serve_datagrams(boxed.net(), 5353);
    let tcp = |from, address, port| lab.seen_as(from, address, port);
    // From the host: never as 127.0.0.1, which a service would trust (CVE-2021-20199).
    assert_eq!(tcp(&lab.host, "127.0.0.1", 8080).as_ref(), Some(&gateway));
    assert_eq!(tcp(&lab.host, "127.0.0.1", 8081).as_ref(), Some(&gateway));
    assert_eq!(tcp(&lab.host, "127.0.0.1", 8091).as_ref(), Some(&gateway), "the second of a range");
    assert_eq!(lab.seen_as_by_datagram(&lab.host, "127.0.0.1", 5300).as_ref(), Some(&gateway));
    assert_eq!(tcp(&lab.host, HOST, 8080), None, "published on 127.0.0.1 only");
    // From the world.
    assert_eq!(tcp(&lab.world, HOST, 8081).as_deref(), Some(WORLD));
    assert_eq!(lab.seen_as_by_datagram(&lab.world, HOST, 5300).as_deref(), Some(WORLD));
    assert_eq!(tcp(&lab.world, HOST, 8080), None);
    lab.at(&lab.world, || sh(&format!("ip route add {own} via {HOST}")));
    assert_eq!(tcp(&lab.world, &own, 80), None, "nobody comes in but through what is published");
    // From another box: by the host's address, and not what is the host's alone.
    let other = lab.start(Who::Root, &["run", "base"]);
    assert_eq!(tcp(other.net(), HOST, 8081).as_ref(), Some(&gateway));
    assert_eq!(tcp(other.net(), &gateway, 8080), None);
    let _said = boxed.end();
    assert_eq!(tcp(&lab.world, HOST, 8081), None, "gone with the box");
    assert_eq!(state_files(), ["addresses"]);
}

#[test]
fn published_ports_keep_the_peers_address_by_nft() {
    in_lab(&["nft"], |lab| {
        published_ports_keep_the_peers_address(lab);
        assert_eq!(sh("nft list tables"), "table ip rootling\n");
    });
}

#[test]
fn published_ports_keep_the_peers_address_by_iptables() {
    in_lab(&["iptables-restore"], |lab| {
        lab.hide("nft");
        sh("iptables -P FORWARD DROP; iptables -A INPUT -p icmp -j ACCEPT");
        published_ports_keep_the_peers_address(lab);
        let rules = sh("iptables-save");
        assert!(rules.contains("-A INPUT -p icmp -j ACCEPT") && !rules.contains("ROOTLING-"), "{rules}");
    });
}

#[test]
fn boxes_get_through_where_docker_drops_what_is_forwarded() {
    in_lab(&["nft", "iptables-restore"], |lab| {
        sh("iptables -P FORWARD DROP");
        lab.serve(&lab.world, 7);
        let boxed = lab.start(Who::Root, &["run", "-p", "0.0.0.0:8081:80", "base"]);
        lab.serve(boxed.net(), 80);
        assert_eq!(lab.seen_as(boxed.net(), WORLD, 7).as_deref(), Some(HOST));
        assert_eq!(lab.seen_as(&lab.world, HOST, 8081).as_deref(), Some(WORLD));
    });
}

#[test]
fn a_port_in_use_is_named_before_the_command_runs() {
    in_lab(&["nft"], |lab| {
        let _tcp = TcpListener::bind("127.0.0.1:8080").unwrap();
        let _udp = UdpSocket::bind("127.0.0.1:53").unwrap();
        for (port, shown) in
            [("8080:80", "127.0.0.1:8080 -> 80/tcp"), ("53:53/udp", "127.0.0.1:53 -> 53/udp")]
        {
            let failed = lab.run(Who::Root, &["run", "-p", port, "base", "--", "echo", "ran"]);
            assert_eq!((failed.code, &*failed.stdout), (125, ""), "{}", failed.stderr);
            let hint = "hint: choose another port: somebody has this one";
            assert!(failed.stderr.contains(shown) && failed.stderr.contains(hint), "{}", failed.stderr);
        }
        // A box's port is as much in use as any other.
        let _first = lab.start(Who::Root, &["run", "-p", "8070:80", "base"]);
        let second = lab.run(Who::Root, &["run", "-p", "8070:80", "base", "--", "echo", "ran"]);
        assert!(second.code == 125 && second.stderr.contains("127.0.0.1:8070"), "{}", second.stderr);
    });
}

#[test]
fn a_port_that_was_left_open_is_chosen_and_said() {
    in_lab(&["nft"], |lab| {
        let ran = lab.run_talking(Who::Root, &["run", "-p", "80", "base", "--", "true"]);
        let port = ran.stderr.split("published 127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        assert!(port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0)), "{}", ran.stderr);
    });
}

#[test]
fn ports_need_a_network_of_the_boxs_own() {
    in_lab(&[], |lab| {
        for net in ["host", "none", "ns:/run/netns/world"] {
            let failed = lab.run(Who::Root, &["run", "--net", net, "-p", "80:80", "base", "--", "true"]);
            assert_eq!(failed.code, 125);
            assert!(failed.stderr.contains("hint: use --net private"), "{net}: {}", failed.stderr);
        }
        let none = lab.ok(
            Who::Root,
            &["run", "--net", "none", "base", "--", "sh", "-c", "ip -o link; cat /etc/resolv.conf"],
        );
        assert!(none.lines().count() == 1 && none.contains("lo:"), "{none}");
    });
}

#[test]
fn a_joined_network_is_that_of_the_other() {
    in_lab(&["nft"], |lab| {
        let inside = ["--", "sh", "-c", "ip -4 -o address; cat /etc/resolv.conf"];
        let joined =
            lab.ok(Who::Root, &[&["run", "--net", "ns:/run/netns/world", "base"], &inside[..]].concat());
        assert!(joined.contains(WORLD), "{joined}");
        lab.ok(Who::Root, &["create", "base", "dev"]);
        let boxed = lab.start(Who::Root, &["exec", "--dns", "192.0.2.53", "dev"]);
        let own = address(lab, &boxed);
        for net in ["box:dev", "container:dev"] {
            let joined = lab.ok(Who::Root, &[&["run", "--net", net, "base"], &inside[..]].concat());
            assert!(joined.contains(&own) && joined.contains("nameserver 192.0.2.53\n"), "{joined}");
        }
        let late = lab.run(Who::Root, &["exec", "-p", "80:80", "dev", "--", "true"]);
        assert!(late.code == 125 && late.stderr.contains("--publish"), "{}", late.stderr);
    });
}

#[test]
fn nothing_is_left_after_many_boxes_nor_after_a_kill() {
    in_lab(&["nft"], |lab| {
        // The first makes the bridge.
        lab.ok(Who::Root, &["run", "base", "--", "true"]);
        let script = "for i in 1 2 3 4 5 6 7 8 9 10; do
            for j in 1 2 3 4; do $R -q run base -- true & done; $R -q run -p 0.0.0.0:8080:80 base -- true; wait; done";
        let ran = ran(std::process::Command::new("sh")
            .args(["-euc", script])
            .env("R", crate::environment::BINARY)
            .env("ROOTLING_ROOT", lab.environment.store())
            .env_remove("ROOTLING_NET")
            .output()
            .unwrap());
        assert_eq!((ran.code, &*ran.stderr), (0, ""));
        eventually("the links of 51 boxes go", || links() == ["lo", "up0", "rootling0"]);
        assert_eq!(state_files(), ["addresses"]);
        assert_eq!(sh("nft list tables"), "table ip rootling\n");

        let boxed = lab.start(Who::Root, &["run", "-p", "0.0.0.0:8080:80", "base"]);
        let processes = boxed.processes();
        boxed.kill();
        eventually("the box dies with its maker", || {
            processes.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap())
        });
        eventually("its link goes", || links() == ["lo", "up0", "rootling0"]);
        assert_eq!(state_files().len(), 2, "its rules are known to be stale");
        // The next box, which may well have the port, removes them.
        let next = lab.start(Who::Root, &["run", "-p", "0.0.0.0:8080:80", "base"]);
        lab.serve(next.net(), 80);
        assert_eq!(lab.seen_as(&lab.world, HOST, 8080).as_deref(), Some(WORLD));
        let _said = next.end();
        assert_eq!(state_files(), ["addresses"]);
        assert_eq!(sh("nft list tables"), "table ip rootling\n");
    });
}

#[test]
fn rules_that_somebody_flushed_are_written_again() {
    in_lab(&["nft"], |lab| {
        lab.serve(&lab.world, 7);
        lab.ok(Who::Root, &["run", "base", "--", "true"]);
        let rules = sh("nft list ruleset");
        sh("nft flush ruleset");
        let boxed = lab.start(Who::Root, &["run", "base"]);
        assert_eq!(lab.seen_as(boxed.net(), WORLD, 7).as_deref(), Some(HOST));
        assert_eq!(sh("nft list ruleset"), rules);
    });
}

#[test]
fn a_bridge_that_was_half_made_is_made_anew() {
    in_lab(&["nft"], |lab| {
        lab.serve(&lab.world, 7);
        sh("ip link add rootling0 type bridge");
        let boxed = lab.start(Who::Root, &["run", "base"]);
        assert_eq!(lab.seen_as(boxed.net(), WORLD, 7).as_deref(), Some(HOST));
    });
}

#[test]
fn what_is_missing_is_said_with_its_package() {
    in_lab(&[], |lab| {
        lab.hide("nft");
        lab.hide("iptables-restore");
        let ran = lab.run_talking(Who::Root, &["run", "base", "--", "ip", "-o", "link"]);
        assert!(ran.stdout.contains("up0"), "the host's network: {}{}", ran.stdout, ran.stderr);
        let said = "neither nft nor iptables is installed (install the package nftables; --net none";
        assert_eq!(ran.stderr.matches(said).count(), 1, "{}", ran.stderr);
        let doctor = lab.run(Who::Root, &["doctor"]).stdout;
        let line = doctor.lines().find(|line| line.starts_with("private networks  ")).unwrap();
        assert!(line.contains(" no ") && line.ends_with("install the package nftables"), "{line}");
        for flags in [&["--net", "private"][..], &["-p", "80:80"]] {
            let failed = lab.run(Who::Root, &[&["run"], flags, &["base", "--", "true"]].concat());
            assert_eq!(failed.code, 125, "what was asked for is not left out");
            assert!(failed.stderr.contains("hint: install the package nftables"), "{}", failed.stderr);
        }
    });
}

fn a_users_box_reaches_the_world(lab: &Lab, tool: &str) {
    if !lab.invite_user() {
        return;
    }
    lab.serve(&lab.world, 7);
    let ports = ["-p", "127.0.0.1:8080:80", "-p", "0.0.0.0:8081:80", "-p", "0.0.0.0:5300:5353/udp"];
    let boxed = lab.start(Who::User, &[&["run"], &ports[..], &["base"]].concat());
    assert_eq!(lab.seen_as(boxed.net(), WORLD, 7).as_deref(), Some(HOST));
    lab.serve(boxed.net(), 80);
    lab.serve_datagrams(boxed.net(), 5353);
    assert!(lab.seen_as(&lab.host, "127.0.0.1", 8080).is_some());
    assert_eq!(lab.seen_as(&lab.world, HOST, 8080), None, "published on 127.0.0.1 only");
    // What comes from afar never looks like the box itself (CVE-2021-20199).
    assert_eq!(lab.seen_as(&lab.world, HOST, 8081).as_deref(), Some(WORLD));
    assert_eq!(lab.seen_as_by_datagram(&lab.world, HOST, 5300).as_deref(), Some(WORLD));
    let second = lab.run(Who::User, &["run", "-p", "8080:80", "base", "--", "echo", "ran"]);
    assert!(second.code == 125 && second.stdout.is_empty(), "{}", second.stderr);
    assert!(second.stderr.contains("publish 127.0.0.1:8080 -> 80/tcp"), "{}", second.stderr);
    let processes = boxed.processes();
    let named = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        name.starts_with(tool)
    };
    assert_eq!(processes.iter().filter(|pid| named(pid)).count(), 1, "one {tool}");
    let gone = |processes: &[u32]| {
        processes.iter().all(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        })
    };
    assert_eq!(boxed.end(), "");
    assert!(gone(&processes), "nothing outlives the box");
    let boxed = lab.start(Who::User, &["run", "base"]);
    for helper in boxed.processes().into_iter().filter(|pid| named(pid)) {
        sh(&format!("kill -9 {helper}"));
        eventually("the helper dies", || gone(&[helper]));
    }
    let said = boxed.end();
    assert!(said.contains("the box had no network at the end"), "it is noticed: {said}");
    let boxed = lab.start(Who::User, &["run", "-p", "8080:80", "base"]);
    let processes = boxed.processes();
    boxed.kill();
    eventually("all die with the maker", || gone(&processes));
    let left = format!("find /tmp /run -xdev -user {} -not -path '/run/user*' | sort", lab.user);
    assert_eq!(sh(&left), "");
}

#[test]
fn a_users_box_reaches_the_world_by_pasta() {
    in_lab(&["pasta", "setpriv"], |lab| a_users_box_reaches_the_world(lab, "pas"));
}

#[test]
fn a_users_box_reaches_the_world_by_slirp4netns() {
    in_lab(&["slirp4netns", "setpriv"], |lab| {
        lab.hide("pasta");
        a_users_box_reaches_the_world(lab, "slirp4netns");
    });
}

#[test]
fn a_users_box_asks_a_name_server_that_only_the_host_can_reach() {
    in_lab(&["pasta", "setpriv"], |lab| {
        if !lab.invite_user() {
            return;
        }
        fs::write("/run/resolv.conf", "nameserver 127.0.0.53\n").unwrap();
        let server = UdpSocket::bind("127.0.0.53:53").unwrap();
        server.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let mut asks = lab.program(Who::User);
        let mut asks = asks.args(["run", "base", "--", "nslookup", "rootling.test"]).spawn().unwrap();
        let mut question = [0; 512];
        let length = server.recv(&mut question).expect("the question arrives");
        asks.kill().unwrap();
        asks.wait().unwrap();
        assert!(question[..length].windows(8).any(|part| part == b"rootling"), "{:?}", &question[..length]);
    });
}

#[test]
fn a_user_without_tools_is_told_which_package() {
    in_lab(&["setpriv"], |lab| {
        if !lab.invite_user() {
            return;
        }
        lab.hide("pasta");
        lab.hide("slirp4netns");
        let failed = lab.run(Who::User, &["run", "--net", "private", "base", "--", "true"]);
        assert!(
            failed.code == 125 && failed.stderr.contains("install the package passt"),
            "{}",
            failed.stderr
        );
        let failed = lab.run(Who::User, &["run", "--net", "bridge", "base", "--", "true"]);
        assert!(
            failed.code == 125 && failed.stderr.contains("only root can connect a bridge"),
            "{}",
            failed.stderr
        );
        let ran = lab.run_talking(Who::User, &["run", "base", "--", "ip", "-o", "link"]);
        assert!(ran.stdout.contains("up0"), "the host's network: {}", ran.stderr);
        let said = "neither pasta nor slirp4netns is installed (install the package passt; --net none";
        assert_eq!(ran.stderr.matches(said).count(), 1, "{}", ran.stderr);
    });
}
