//! Which app it is, and whether php.ini decides where it keeps its sessions.

use std::path::Path;

use super::findings::{self as kinds, Finding};
use super::sapis::text_of;

/// An app that is known.
#[derive(Debug)]
pub(super) struct App {
    pub(super) name: &'static str,
    /// A file that only this app has, from its root or its document root.
    marks: &'static [&'static str],
    sessions: Sessions,
    /// What to do, as docs/doctor.md says it.
    pub(super) advice: &'static str,
}

/// Who decides where sessions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sessions {
    /// php.ini.
    OfPhp,
    /// The app.
    OfApp,
}

/// What says that an app keeps them in files: a file of it, and a text in that.
const FILES: &[(&str, &str, &str)] = &[
    ("Laravel", ".env", "SESSION_DRIVER=file"),
    ("Magento", "app/etc/env.php", "'save' => 'files'"),
    ("Moodle", "config.php", "\\core\\session\\file"),
    ("Symfony", "config/packages/framework.yaml", "session.handler.native_file"),
];

/// All of them, those with the narrowest marks first.
pub(super) const APPS: &[App] = &[
    App {
        name: "Nextcloud",
        marks: &["lib/private/Session/Internal.php", "lib/public/ISession.php"],
        sessions: Sessions::OfPhp,
        advice: "php.ini decides; leave redis.session.* as they are",
    },
    App {
        name: "Magento",
        marks: &["app/etc/env.php", "bin/magento"],
        sessions: Sessions::OfApp,
        advice: "app/etc/env.php: 'session' => ['save' => 'redis', ...]",
    },
    App {
        name: "Moodle",
        marks: &["lib/moodlelib.php"],
        sessions: Sessions::OfApp,
        advice: "config.php: $CFG->session_handler_class = '\\core\\session\\redis'",
    },
    App {
        name: "Laravel",
        marks: &["artisan"],
        sessions: Sessions::OfApp,
        advice: ".env: SESSION_DRIVER=redis",
    },
    App {
        name: "Symfony",
        marks: &["bin/console", "config/packages/framework.yaml"],
        sessions: Sessions::OfPhp,
        advice: "config/packages/framework.yaml: framework.session.handler_id: null lets php.ini decide",
    },
    App {
        name: "WooCommerce",
        marks: &["wp-content/plugins/woocommerce/woocommerce.php"],
        sessions: Sessions::OfApp,
        advice: "nothing: carts are in the table wp_woocommerce_sessions, which all servers share",
    },
    App {
        name: "WordPress",
        marks: &["wp-includes/version.php"],
        sessions: Sessions::OfPhp,
        advice: "php.ini decides for the plugins that call session_start(); WordPress itself has no sessions",
    },
];

/// What is to be said of the app in this directory; its root may be the directory above.
pub(super) fn look(app: &Path) -> Vec<Finding> {
    let roots = [Some(app), app.parent()];
    let here = |known: &&App| {
        roots.into_iter().flatten().find(|root| known.marks.iter().any(|mark| root.join(mark).is_file()))
    };
    let Some((known, root)) = APPS.iter().find_map(|known| Some((known, here(&known)?))) else {
        return Vec::new();
    };
    for (_, file, text) in FILES.iter().filter(|(name, ..)| *name == known.name) {
        let file = root.join(file);
        let lines = text_of(&file).unwrap_or_default();
        let said = lines.lines().position(|line| {
            let comment = line.trim_start().starts_with(['#', '/']);
            !comment && line.replace('"', "'").contains(text)
        });
        if let Some(index) = said {
            let what =
                format!("{}:{}: {} keeps sessions in files ({text})", file.display(), index + 1, known.name);
            return vec![Finding::problem(kinds::APP_FILES, what, known.advice)];
        }
    }
    match known.sessions {
        Sessions::OfPhp => Vec::new(),
        Sessions::OfApp => {
            let what = format!("{} is {}, which does not use PHP's sessions", app.display(), known.name);
            vec![Finding::note(kinds::BYPASSED, what, known.advice)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_every_app_with_its_advice() {
        let book = include_str!("../../../../docs/doctor.md");
        for App { name, advice, .. } in APPS {
            let row = book.lines().find(|line| line.starts_with(&format!("| {name} |")));
            let row = row.unwrap_or_else(|| panic!("docs/doctor.md has no row for {name}"));
            assert!(row.contains(advice), "{row}\n{advice}");
        }
    }
}
