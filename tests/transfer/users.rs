//! Images as an ordinary user has them.

use super::make_image_at;
use crate::guest::{Ids, guest};

/// Pull, run, change, snapshot, push and pull again: what each prints, whoever does it.
const LIFE: &str = "
    $R -q init > /dev/null
    $R -q pull oci:$D/img app:1 > /dev/null
    $R -q run app:1
    $R -q create app:1 dev > /dev/null
    $R -q exec --user root dev /bin/sh -c 'echo x > /etc/x; rm /etc/two /etc/link'
    $R -q snapshot dev one > /dev/null
    $R -q push dev oci:$D/out:dev > /dev/null
    $R -q pull oci:$D/out:dev back > /dev/null
    $R diff dev..back
    $R -q run back@one 'id -un; ls /etc'
    $R -q images | wc -l
    $R -q fsck > /dev/null";

#[test]
fn a_user_moves_images_as_root_does() {
    for ids in [Ids::All, Ids::Range] {
        let Some(guest) = guest(ids) else { return };
        if !make_image_at(&guest.dir.path().join("img")) {
            return;
        }
        let ran = guest.script_after("chmod -R a+rX $D/img", LIFE);
        let printed = "app\nb\n/home/app\ntwo\napp\ngroup\nhostname\nhosts\none\npasswd\nresolv.conf\nx\n2\n";
        assert_eq!((ran.stdout.as_str(), ran.code), (printed, 0), "{ids:?}: {}", ran.stderr);
    }
}
