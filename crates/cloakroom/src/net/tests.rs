use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::*;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A listener, and a connection to it with this patience.
fn connected(patience: Duration) -> (TcpStream, Conn) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dialer = Dialer::new(Address::Tcp { host: "localhost".into(), port }, None);
    let conn = dialer.dial(patience, soon()).unwrap();
    (listener.accept().unwrap().0, conn)
}

#[test]
fn bytes_go_both_ways() {
    let (mut peer, mut conn) = connected(Duration::from_secs(20));
    conn.send(b"question", soon()).unwrap();
    let mut heard = [0; 8];
    peer.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"question");
    assert!(conn.is_quiet());
    peer.write_all(b"answer").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(conn.receive(&mut buffer, soon()).unwrap(), 6);
    peer.write_all(b"!").unwrap();
    drop(peer);
    assert_eq!(conn.receive(&mut buffer, soon()).unwrap(), 1);
    assert_eq!(conn.receive(&mut buffer, soon()).unwrap(), 0);
    assert!(!conn.is_quiet());
}

#[test]
fn a_silent_peer_ends_at_the_deadline_with_little_and_with_much_patience() {
    for patience in [Duration::from_millis(30), Duration::from_secs(60)] {
        let (_peer, mut conn) = connected(patience);
        let by = Deadline::after(Duration::from_millis(100));
        let error = conn.receive(&mut [0; 8], by).unwrap_err();
        assert_eq!(error.kind(), Io::TimedOut);
        assert!(by.passed());
    }
}

#[test]
fn what_came_while_this_process_stood_still_is_not_late() {
    let (mut peer, mut conn) = connected(Duration::from_secs(60));
    peer.write_all(b"12").unwrap();
    let mut buffer = [0; 1];
    // The second byte has come with the first.
    assert_eq!(conn.receive(&mut buffer, soon()).unwrap(), 1);
    let passed = Deadline::after(Duration::ZERO);
    assert_eq!(conn.receive(&mut buffer, passed).unwrap(), 1);
    assert_eq!(&buffer, b"2");
    assert_eq!(conn.receive(&mut buffer, passed).unwrap_err().kind(), Io::TimedOut);
}

#[test]
fn a_peer_that_does_not_read_ends_at_the_deadline() {
    let (_peer, mut conn) = connected(Duration::from_secs(60));
    let bytes = vec![0; 64 << 20];
    let error = conn.send(&bytes, Deadline::after(Duration::from_millis(100))).unwrap_err();
    assert_eq!(error.kind(), Io::TimedOut);
}

#[test]
fn a_unix_socket_is_dialled() {
    let directory = testbed::TempDir::new();
    let path = directory.join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut conn = Dialer::new(Address::Unix(path.clone()), None).dial(soon().remaining(), soon()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"x").unwrap();
    assert_eq!(conn.receive(&mut [0; 8], soon()).unwrap(), 1);
}

#[test]
fn nobody_there_is_unreachable_with_a_hint() {
    let port = testbed::free_port();
    let dialer = Dialer::new(Address::Tcp { host: "127.0.0.1".into(), port }, None);
    let error = dialer.dial(soon().remaining(), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot connect to 127.0.0.1:{port}: Connection refused (os error 111)\n\
             hint: check that the server runs and that session.save_path has its address"
        )
    );
}

#[test]
fn the_address_that_answered_is_tried_first() {
    let dialer = Dialer::new(Address::Tcp { host: "h".into(), port: 1 }, None);
    let address = |last| SocketAddr::from(([127, 0, 0, last], 1));
    *dialer.addresses.lock().unwrap() =
        Some(Resolved { at: Instant::now(), addresses: vec![address(1), address(2), address(3)] });
    dialer.prefer(address(3));
    assert_eq!(dialer.addresses("h", 1, soon()).unwrap(), [address(3), address(1), address(2)]);
}
