//! `mount` without a directory, `umount` by name, and podman on what they show.

use super::script_ok;
use crate::environment::{found, is_root, skip};
use crate::grounds::on_file_systems;

#[test]
fn a_tree_is_mounted_at_a_place_of_its_own_and_found_there_again() {
    on_file_systems(|environment, _| {
        environment.import_base();
        let script = r#"$R -q create base dev > $D/id
            place=$($R mount base 2> $D/said); cat $D/said; test "$($R mount base)" = $place; cat $place/etc/motd; touch $place/x 2> /dev/null || echo closed
            stat -c '%a %U' $(dirname $place); grep -c " $place " /proc/self/mountinfo; grep " $place " /proc/self/mountinfo | grep -o nosuid,nodev
            box=$($R mount dev); echo new > $box/etc/new; test "$($R mount dev)" = $box; $R mount --read-only dev 2>&1 | sed "s,$box,PLACE,"
            $R ls | grep -c mounted; $R --format json ls | grep -A 1 mounted | grep -c $place; $R rm dev 2>&1 | grep -c "is mounted at \"$box\""
            $R rm base 2>&1 | grep -c "is mounted at"; $R --format json mount dev | grep read_only
            $R umount dev 2>&1 | sed "s,$box,PLACE,"; test ! -e $box; $R umount dev 2>&1 || true; $R -q umount $place; test ! -e $place
            box=$($R mount --read-only dev); touch $box/x 2> /dev/null || echo closed; $R mount dev 2>&1 | grep -o 'for reading only'; $R -q umount dev
            mkdir $D/m $D/n; $R -q mount base $D/m; $R mount dev $D/m 2>&1 | sed "s,$D,DIR,g"; $R -q mount base $D/n; $R umount base 2>&1 | sed "s,$D,DIR,g"; place=$($R mount base); $R -q umount base
            test ! -e $place; $R -q umount $D/n; $R -q umount base; $R -q umount base 2>&1 | grep -c 'is not mounted'
            $R umount $D/m 2>&1 | grep -o 'is not a mount of a tree'; $R umount nothing 2>&1 | grep -o 'there is no nothing'
            $R mount base $D/no 2>&1 | grep -o 'make it first: mkdir -p'; $R umount $D/no 2>&1 | sed "s,$D,DIR,g"
            $R diff dev; $R -q rm --now dev; rmdir $D/m $D/n; $R -q prune > $D/pruned"#;
        let printed = environment.script_ok(script);
        let expected = "welcome\nclosed\n700 root\n1\nnosuid,nodev\n\
            rootling: dev is mounted at \"PLACE\" for writing, too\n  hint: rootling umount dev\n2\n1\n1\n1\n  \"read_only\": false\n\
            unmounted PLACE\nrootling: dev is not mounted\n  hint: `rootling ls` shows what is, in the column IN USE\nclosed\nfor reading only\n\
            rootling: mount dev\n  because: a tree of this store is mounted at \"DIR/m\"\n  hint: rootling umount DIR/m\n\
            rootling: base is mounted at DIR/m, DIR/n\n  hint: say which: rootling umount DIRECTORY\n1\n\
            is not a mount of a tree\nthere is no nothing\nmake it first: mkdir -p\n\
            rootling: unmount \"DIR/no\"\n  because: realpath(\"DIR/no\")\n  because: No such file or directory (os error 2)\n  \
            hint: `rootling ls` shows what is, in the column IN USE\nA /etc/new\n";
        assert_eq!(printed, expected);
        environment.assert_tidy(&["base"]);
    });
}

/// What podman needs where no limit may be raised, and nothing of it is left behind.
const PODMAN: &str = r#"
p() { podman --root $D/podman --runroot $D/podman-run --cgroup-manager cgroupfs run --rm --network none --runtime runc \
    --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 "$@"; }
trap 'umount -l $D/podman/overlay 2> /dev/null || true' EXIT
"#;

#[test]
fn podman_runs_what_is_mounted() {
    if !is_root() {
        return;
    }
    if !found("podman") || !found("runc") {
        return skip("podman or runc is not installed");
    }
    on_file_systems(|environment, _| {
        if !environment.import_busybox() {
            return;
        }
        let script = r#"
            p --rootfs "$($R mount base):O" sh -c 'id -u; echo x > /over; cat /over'
            if p --rootfs "$($R mount base)" true 2> $D/said; then echo ran; fi; grep -o 'read-only file system' $D/said
            $R -q create base dev > $D/id; p --rootfs "$($R mount dev)" sh -c 'hostname > /file; exit 3' || echo code $?
            $R diff dev | grep /file; $R -q umount dev; $R -q exec dev -- test -s /file; $R -q umount base; $R -q rm --now dev"#;
        let printed = script_ok(environment, &format!("{PODMAN}{script}"));
        assert_eq!(printed, "0\nx\nread-only file system\ncode 3\nA /file\n");
        environment.assert_tidy(&["base"]);
    });
}
