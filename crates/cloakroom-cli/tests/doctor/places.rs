//! Where the doctor looks, and what it never says.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use testbed::suite::{Case, case};

use crate::tree::{CLOAKROOM_INI, DIRECTORY, FPM, Tree, local, problem, user};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("a_password_is_told_nowhere", &[], a_password_is_told_nowhere),
        case("the_pool_of_docker_s_images_is_found", &[], the_pool_of_docker_s_images),
        case("nobody_is_told_to_change_the_mode_of_tmp", &[], the_mode_of_tmp),
        case("a_root_may_be_named_from_where_one_is", &[], a_root_from_here),
    ]
}

fn a_password_is_told_nowhere() {
    let tree = Tree::fpm();
    for line in [
        "memcached.sess_sasl_password = “s3cr3t”",
        "memcached.sess_sasl_password = s3cr3t(",
        "memcached.sess_sasl_password = s3cr3t # comment",
        "session.savepath = tcp:10.0.0.1:6379?auth=s3cr3t",
        "session.save_handler = \"10.0.0.1:6379?auth=s3cr3t\"",
        "session.save_handler = \"tcp://10.0.0.1:6379?auth=s3cr3t\"",
        "session.name = \"tcp://:s3cr3t@10.0.0.1:6379\"",
    ] {
        tree.write("etc/php/8.2/fpm/conf.d/30-secret.ini", format!("{line}\n"));
        for pool in ["", &format!("php_value[{}\n", line.replacen(" =", "] =", 1))] {
            tree.pool(pool);
            for json in [&[][..], &["--json"]] {
                let output = tree.doctor().args(json).output().unwrap();
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8(said).unwrap();
                assert!(!said.contains("s3cr3t") && said.contains("FPM 8.2"), "{line}\n{said}");
            }
        }
    }
}

/// php-fpm.conf as those have it, and one pool in three files.
fn the_pool_of_docker_s_images() {
    let tree = Tree::new();
    tree.write("usr/local/etc/php/conf.d/cloakroom.ini", CLOAKROOM_INI);
    tree.write("usr/local/etc/php-fpm.conf", "[global]\ninclude=etc/php-fpm.d/*.conf\n");
    tree.write("usr/local/etc/php-fpm.d/docker.conf", "[global]\n[www]\nclear_env = no\n");
    let pool = format!("[www]\nuser = {}\nphp_value[session.save_path] = /nowhere\n", user());
    tree.write("usr/local/etc/php-fpm.d/www.conf", pool);
    tree.write("usr/local/etc/php-fpm.d/zz-docker.conf", "[global]\n[www]\nlisten = 9000\n");
    let findings = [problem(
        "directory-missing",
        "/nowhere: No such file or directory (os error 2)",
        format!("install -d -m 0700 -o {} /nowhere", user()),
    )];
    tree.finds(&["--sapi", "fpm"], &["FPM, pool www"], &findings);
}

/// Where PHP keeps files when nothing is said, in Docker's images for example.
fn the_mode_of_tmp() {
    let tree = Tree::fpm();
    let text = "extension = cloakroom\nsession.save_handler = cloakroom\nsession.save_path = /tmp\n";
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
    tree.write("tmp/other", "");
    std::fs::set_permissions(tree.path("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let findings = [problem(
        "directory-open-to-others",
        "/tmp: every user of this host can list it (mode 1777)",
        format!(
            "install -d -m 0700 -o {} /var/lib/php/sessions, and session.save_path = \"/var/lib/php/sessions\"",
            user()
        ),
    )];
    tree.finds(&[], &[FPM], &findings);
}

fn a_root_from_here() {
    let tree = Tree::fpm();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.current_dir(tree.root()).args(["doctor", "--root", "."]);
    tree.says(&mut command, &[FPM, DIRECTORY], &[local()]);
}
