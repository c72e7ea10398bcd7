//! Several PHP-FPM masters, each a server of its own, behind nginx: round robin, without stickiness.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nix::sys::signal::Signal;
use nix::unistd::{Group, User};

use crate::php::{extension, fpm_program, ini_line};
use crate::process::Process;
use crate::{START, TempDir, free_port, need, place, wait_until};

/// What a fleet is to be.
#[derive(Debug, Clone)]
#[must_use]
pub struct Plan {
    root: PathBuf,
    servers: usize,
    workers: usize,
    /// What the load balancer does about a server that fails.
    failing: &'static str,
    master: Vec<String>,
    env: Vec<(String, String)>,
    masters_env: Vec<(String, String)>,
    clear_env: bool,
    wrapper: Vec<String>,
    php_ini: Option<PathBuf>,
    pool: String,
    ini: Vec<(Option<usize>, String, String)>,
}

impl Plan {
    /// Three servers of two workers each, which serve the PHP files of `root`.
    pub fn serving(root: impl Into<PathBuf>) -> Plan {
        Plan {
            root: root.into(),
            servers: 3,
            workers: 2,
            failing: "max_fails=1 fail_timeout=1s",
            master: Vec::new(),
            env: Vec::new(),
            masters_env: Vec::new(),
            clear_env: false,
            wrapper: Vec::new(),
            php_ini: None,
            pool: String::new(),
            ini: Vec::new(),
        }
    }

    /// Another number of servers.
    pub fn servers(mut self, servers: usize) -> Plan {
        self.servers = servers;
        self
    }

    /// Another number of workers in each.
    pub fn workers(mut self, workers: usize) -> Plan {
        self.workers = workers;
        self
    }

    /// Lets the load balancer come back to a server at once after it has failed.
    pub fn forgiving(mut self) -> Plan {
        self.failing = "max_fails=0";
        self
    }

    /// Loads our extension.
    pub fn cloakroom(self) -> Plan {
        let path = extension();
        self.module(&path.display().to_string())
    }

    /// Loads a module.
    pub fn module(self, name: &str) -> Plan {
        self.master_ini("extension", name)
    }

    /// Sets a php.ini directive on the command line of all servers: where a pool's configuration comes too late.
    pub fn master_ini(mut self, name: &str, value: impl ToString) -> Plan {
        self.master.extend(["-d".to_owned(), ini_line(name, &value.to_string())]);
        self
    }

    /// Reads this php.ini, instead of none.
    pub fn php_ini(mut self, path: impl Into<PathBuf>) -> Plan {
        self.php_ini = Some(path.into());
        self
    }

    /// Adds lines to the pool's configuration, as they are.
    pub fn pool(mut self, lines: &str) -> Plan {
        self.pool += lines;
        self
    }

    /// Sets an environment variable of all workers.
    pub fn env(mut self, name: &str, value: impl ToString) -> Plan {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets an environment variable of the masters, as whatever starts PHP-FPM does. The workers see it, too, unless
    /// [`Plan::clear_env`].
    pub fn masters_env(mut self, name: &str, value: impl ToString) -> Plan {
        self.masters_env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Clears the workers' environment, as PHP-FPM does by default.
    pub fn clear_env(mut self) -> Plan {
        self.clear_env = true;
        self
    }

    /// Starts the masters by way of another program (`unshare -m`).
    pub fn through(mut self, words: &[&str]) -> Plan {
        self.wrapper = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets a php.ini directive on all servers, in the pool's configuration.
    pub fn ini(mut self, name: &str, value: impl ToString) -> Plan {
        self.ini.push((None, name.to_owned(), value.to_string()));
        self
    }

    /// Sets a php.ini directive on one server, counted from 0.
    pub fn ini_of(mut self, server: usize, name: &str, value: impl ToString) -> Plan {
        self.ini.push((Some(server), name.to_owned(), value.to_string()));
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> Fleet {
        let directory = TempDir::new();
        // The pool's user may not be allowed to read where the sources are.
        copy(&self.root, &directory.join("www"));
        let servers = (0..self.servers).map(|index| Mutex::new(self.master(&directory, index))).collect();
        let port = free_port();
        let nginx = self.nginx(&directory, port);
        Fleet { servers, nginx, port, plan: self, directory }
    }

    fn master(&self, directory: &TempDir, index: usize) -> Process {
        let name = name(index);
        let own = directory.join(&name);
        entered(&own);
        let temporary = own.join("tmp");
        writable(&temporary);
        let socket = directory.join(format!("{name}.sock"));
        let _ = std::fs::remove_file(&socket);
        let mut pool = format!(
            "[global]\ndaemonize = no\nprocess_control_timeout = 20s\nerror_log = /proc/self/fd/2\nlog_level = warning\n[{name}]\nlisten = {}\nlisten.mode = 0666\npm = static\npm.max_children = {}\n\
             clear_env = {}\ncatch_workers_output = yes\nenv[BACKEND] = {name}\nenv[TMPDIR] = {}\n",
            socket.display(),
            self.workers,
            if self.clear_env { "yes" } else { "no" },
            temporary.display(),
        );
        if let Some((user, group)) = nobody() {
            pool += &format!("user = {user}\ngroup = {group}\n");
        }
        for (name, value) in &self.env {
            pool += &(ini_line(&format!("env[{name}]"), value) + "\n");
        }
        // Of two values PHP-FPM would take the first.
        let mut ini =
            BTreeMap::from([("display_errors", "0"), ("log_errors", "1"), ("error_reporting", "-1")]);
        let ours = self.ini.iter().filter(|(server, ..)| server.is_none_or(|server| server == index));
        ini.extend(ours.map(|(_, name, value)| (name.as_str(), value.as_str())));
        for (name, value) in ini {
            pool += &(ini_line(&format!("php_value[{name}]"), value) + "\n");
        }
        pool += &self.pool;
        let pool = directory.write(format!("{name}.conf"), pool);
        let fpm = fpm_program().expect("php-fpm is installed");
        let mut command = match self.wrapper.split_first() {
            None => Command::new(fpm),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(fpm);
                command
            }
        };
        command.envs(self.masters_env.iter().map(|(name, value)| (name, value)));
        match &self.php_ini {
            Some(path) => command.arg("-c").arg(path).env("PHP_INI_SCAN_DIR", ""),
            None => command.arg("-n"),
        };
        command.args(["-F", "-y"]).arg(pool).args(&self.master);
        let master = Process::start(&mut command, &own, &name);
        wait_until("php-fpm listens", START, || {
            assert!(master.running(), "php-fpm ended\n{}", master.log());
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        master
    }

    fn nginx(&self, directory: &TempDir, port: u16) -> Process {
        let own = directory.join("nginx");
        entered(&own);
        let place = directory.path().display();
        let servers: String = (0..self.servers)
            .map(|index| format!("server unix:{place}/{}.sock {}; ", name(index), self.failing))
            .collect();
        let user = nobody().map(|(user, group)| format!("user {user} {group};")).unwrap_or_default();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {place}/nginx/{kind};\n  "))
            .concat();
        let parameters: String = [
            ("SCRIPT_FILENAME", "$document_root$fastcgi_script_name"),
            ("SCRIPT_NAME", "$fastcgi_script_name"),
            // PHP looks for .user.ini from here on.
            ("DOCUMENT_ROOT", "$document_root"),
            ("REQUEST_METHOD", "$request_method"),
            ("REQUEST_URI", "$request_uri"),
            ("QUERY_STRING", "$query_string"),
            ("CONTENT_TYPE", "$content_type"),
            ("CONTENT_LENGTH", "$content_length"),
            ("SERVER_PROTOCOL", "$server_protocol"),
            ("REMOTE_ADDR", "$remote_addr"),
        ]
        .map(|(name, value)| format!("fastcgi_param {name} {value};\n      "))
        .concat();
        // One worker: each would begin the round by itself.
        let configuration = directory.write(
            "nginx.conf",
            format!(
                "daemon off;
worker_processes 1;
pid {place}/nginx/pid;
error_log stderr warn;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  {temporary}upstream fleet {{ {servers}}}
  server {{
    listen 127.0.0.1:{port};
    root {place}/www;
    location = /favicon.ico {{ return 204; }}
    location ~ ^(/|/.+\\.php)$ {{
      index index.php;
      fastcgi_pass fleet;
      fastcgi_index index.php;
      {parameters}
    }}
  }}
}}
"
            ),
        );
        let mut command = Command::new(need::find("nginx").expect("nginx is installed"));
        command.args(["-e", "stderr", "-p"]).arg(&own).arg("-c").arg(configuration);
        let nginx = Process::start(&mut command, &own, "nginx");
        wait_until("nginx listens", START, || {
            assert!(nginx.running(), "nginx ended\n{}", nginx.log());
            place::listening(port)
        });
        nginx
    }
}

/// Servers `app1`, `app2`, ... that answer in turn.
#[derive(Debug)]
pub struct Fleet {
    servers: Vec<Mutex<Process>>,
    nginx: Process,
    port: u16,
    plan: Plan,
    directory: TempDir,
}

impl Fleet {
    /// Where the load balancer answers, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The load balancer's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The unix socket of one server, counted from 0, for FastCGI without the load balancer.
    pub fn socket(&self, server: usize) -> PathBuf {
        self.directory.join(format!("{}.sock", name(server)))
    }

    /// The pid of a server's master.
    pub fn pid(&self, server: usize) -> i32 {
        self.servers[server].lock().unwrap().pid()
    }

    /// Kills a server, counted from 0: its master and its workers (SIGKILL).
    pub fn kill(&self, server: usize) {
        self.servers[server].lock().unwrap().kill();
    }

    /// Starts a killed server again. nginx takes it back two seconds after it last missed it.
    pub fn restart(&self, server: usize) {
        let mut process = self.servers[server].lock().unwrap();
        process.kill();
        *process = self.plan.master(&self.directory, server);
    }

    /// Takes a server out of service as operators do, without a request being cut off (SIGQUIT), and starts it as another
    /// plan says. The load balancer gives what the server had not begun to another one.
    pub fn replace(&self, server: usize, plan: &Plan) {
        let mut process = self.servers[server].lock().unwrap();
        process.signal(Signal::SIGQUIT);
        process.wait(START);
        process.kill();
        *process = plan.master(&self.directory, server);
    }

    /// What all of them logged, PHP's warnings included.
    pub fn log(&self) -> String {
        let servers = self.servers.iter().map(|server| server.lock().unwrap().log());
        servers.chain([self.nginx.log()]).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Asked to end, masters wait for their workers; killed, they leave them to init.
        for server in &self.servers {
            server.lock().unwrap().end();
        }
        self.nginx.end();
    }
}

/// What a server is called (`BACKEND` in its environment).
fn name(index: usize) -> String {
    format!("app{}", index + 1)
}

/// Makes a directory that PHP's workers may write to.
pub fn writable(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    if let Some((user, group)) = nobody() {
        let (user, group) =
            (User::from_name(&user).unwrap().unwrap(), Group::from_name(&group).unwrap().unwrap());
        std::os::unix::fs::chown(directory, Some(user.uid.as_raw()), Some(group.gid.as_raw())).unwrap();
    }
}

/// The user and group that the workers run as when root starts them.
fn nobody() -> Option<(String, String)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = User::from_name("nobody").unwrap().expect("there is a user nobody");
    let group = Group::from_gid(user.gid).unwrap().expect("nobody has a group");
    Some((user.name, group.name))
}

/// Makes a directory that anybody may enter, whatever the umask is.
fn entered(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
}

fn copy(from: &Path, to: &Path) {
    entered(to);
    for entry in std::fs::read_dir(from).unwrap_or_else(|error| panic!("read {}: {error}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => {
                std::fs::copy(entry.path(), &target).unwrap();
                std::fs::set_permissions(target, PermissionsExt::from_mode(0o644)).unwrap();
            }
        }
    }
}
