//! Bytes as servers send them, and as no sound server does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread::JoinHandle;

use super::*;

/// Answers each write of a client with the next of these, a byte at a time where it says so.
fn scripted(answers: Vec<Vec<u8>>, piecewise: bool) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        for answer in answers {
            if stream.read(&mut [0; 4096]).unwrap_or(0) == 0 {
                return;
            }
            let size = if piecewise { 1 } else { answer.len().max(1) };
            for piece in answer.chunks(size) {
                if stream.write_all(piece).is_err() {
                    return;
                }
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
    });
    (address, server)
}

/// A packet as the server sends it: status, version, extras, key, value.
fn reply(opaque: u32, status: u16, version: u64, extras: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x81, 0, 0, 0, extras.len() as u8, 0];
    bytes.extend(status.to_be_bytes());
    bytes.extend(((extras.len() + value.len()) as u32).to_be_bytes());
    bytes.extend(opaque.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend_from_slice(extras);
    bytes.extend_from_slice(value);
    bytes
}

#[test]
fn answers_in_pieces_are_put_together() {
    let asks = [GET, Ask::Add { key: b"k", value: b"v", expiry: LONG }, GET];
    let (text, meta) = (
        "VALUE k 0 3 7\r\n\r\n\0\r\nEND\r\nNOT_STORED\r\nEND\r\n",
        "VA 3 c7 kk\r\n\r\n\0\r\nNOT_STORED\r\nEN\r\n",
    );
    let binary = [
        reply(1, 0, 7, &[0; 4], b"\r\n\0"),
        reply(2, 2, 0, &[], b"Data exists for key."),
        reply(3, 1, 0, &[], b"Not found"),
    ];
    for (protocol, answer) in
        [("ascii", text.as_bytes().to_vec()), ("meta", meta.as_bytes().to_vec()), ("binary", binary.concat())]
    {
        let (address, server) = scripted(vec![answer], true);
        let mut client = client(&format!("memcached://{address}?protocol={protocol}"));
        let item = Answer::Item { value: b"\r\n\0".to_vec(), version: 7 };
        assert_eq!(client.ask(&asks, soon()).unwrap(), [item, Answer::Differs, Answer::Missing]);
        server.join().unwrap();
    }
}

#[test]
fn what_is_not_an_answer_to_this_question_is_refused() {
    let large = reply(1, 0, 7, &[0; 4], b"v");
    let mut cut = large.clone();
    cut.truncate(27);
    let mut inconsistent = large.clone();
    inconsistent[11] = 1;
    let cases: Vec<(&str, Vec<u8>, ErrorKind, &str)> = vec![
        ("ascii", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), ErrorKind::Corrupt, "a web server"),
        ("ascii", b"-ERR unknown command 'gets'\r\n".to_vec(), ErrorKind::Corrupt, "a Redis server"),
        ("auto", b"-ERR unknown command 'mn'\r\n".to_vec(), ErrorKind::Corrupt, "a Redis server"),
        ("ascii", b"VALUE other 0 1 7\r\nv\r\nEND\r\n".to_vec(), ErrorKind::Corrupt, "another item"),
        ("meta", b"VA 1 c7 kother\r\nv\r\n".to_vec(), ErrorKind::Corrupt, "another item"),
        ("ascii", b"VALUE k 0 x 7\r\nv\r\nEND\r\n".to_vec(), ErrorKind::Corrupt, "protocol"),
        ("ascii", b"VALUE k 0 1\r\nv\r\nEND\r\n".to_vec(), ErrorKind::Corrupt, "protocol"),
        ("ascii", b"VALUE k 0 1 7\r\nvv\r\nEND\r\n".to_vec(), ErrorKind::Corrupt, "protocol"),
        ("ascii", b"END\r\nEND\r\n".to_vec(), ErrorKind::Corrupt, "more than it was asked"),
        ("ascii", b"STORED\r\n".to_vec(), ErrorKind::Corrupt, "protocol"),
        ("ascii", vec![b'x'; 5000], ErrorKind::Corrupt, "protocol"),
        ("ascii", b"VALUE k 0 9 7\r\nv".to_vec(), ErrorKind::Unreachable, "cut the connection"),
        ("ascii", b"SERVER_ERROR backend failed\r\n".to_vec(), ErrorKind::Unreachable, "backend failed"),
        ("meta", b"ERROR\r\n".to_vec(), ErrorKind::Unsupported, "1.4.8"),
        ("binary", reply(2, 0, 7, &[0; 4], b"v"), ErrorKind::Corrupt, "another question"),
        ("binary", [large.clone(), large].concat(), ErrorKind::Corrupt, "more than it was asked"),
        ("binary", inconsistent, ErrorKind::Corrupt, "protocol"),
        ("binary", cut, ErrorKind::Unreachable, "cut the connection"),
        ("binary", b"HTTP/1.1 400 Bad Request\r\n".to_vec(), ErrorKind::Corrupt, "a web server"),
        ("binary", reply(1, 0x84, 0, &[], b"Internal error"), ErrorKind::Unsupported, "0x84"),
    ];
    for (protocol, answer, kind, told) in cases {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let (address, server) = scripted(vec![answer], false);
        let mut client = client(&format!("memcached://{address}?protocol={protocol}"));
        let error = error_of(&mut client, &[GET]);
        assert_eq!(error.kind(), kind, "{protocol} {shown:.60}: {error}");
        assert!(error.to_string().contains(told), "{protocol} {shown:.60}: {error}");
        assert!(!client.is_connected(), "{protocol} {shown:.60}");
        server.join().unwrap();
    }
}

#[test]
fn sasl_goes_on_for_as_long_as_the_server_says() {
    let listed = reply(0, 0, 0, &[], b"CRAM-MD5 PLAIN");
    let answers = |last: Vec<u8>| vec![listed.clone(), reply(0, 0x21, 0, &[], b""), last];
    let greeted = [answers(reply(0, 0, 0, &[], b"")), vec![reply(1, 1, 0, &[], b"")]].concat();
    let (address, server) = scripted(greeted, false);
    let mut greeted = client(&format!("memcached://u:p@{address}"));
    assert_eq!(greeted.ask(&[GET], soon()).unwrap(), [Answer::Missing]);
    drop(greeted);
    server.join().unwrap();
    for (script, told) in [
        (vec![reply(0, 0, 0, &[], b"CRAM-MD5")], "by CRAM-MD5"),
        (answers(reply(0, 0x20, 0, &[], b"Auth failure.")), "(Auth failure)"),
        ([vec![listed.clone()], vec![reply(0, 0x21, 0, &[], b""); 9]].concat(), "ever more"),
    ] {
        let (address, server) = scripted(script, false);
        let mut refused = client(&format!("memcached://u:p@{address}"));
        let error = error_of(&mut refused, &[GET]);
        assert!(error.kind() == ErrorKind::Auth && error.to_string().contains(told), "{error}");
        drop(refused);
        server.join().unwrap();
    }
}

#[test]
fn requests_are_these_bytes() {
    let expiry = LONG;
    let asks = [
        (GET, "gets k\r\n", "mg k v c k\r\n"),
        (Ask::Life { key: b"k" }, "gets k\r\n", "mg k t k\r\n"),
        (Ask::Add { key: b"k", value: b"v", expiry }, "add k 0 100 1\r\nv\r\n", ""),
        (Ask::Set { key: b"k", value: b"", expiry }, "set k 0 100 0\r\n\r\n", ""),
        (Ask::Swap { key: b"k", value: b"v", expiry, version: 7 }, "cas k 0 100 1 7\r\nv\r\n", ""),
        (Ask::Append { key: b"k", value: b"v" }, "append k 0 0 1\r\nv\r\n", ""),
        (Ask::Touch { key: b"k", expiry }, "touch k 100\r\n", ""),
        (Ask::Remove { key: b"k", version: 7 }, "cas k 0 -1 0 7\r\n\r\n", "md k C7\r\n"),
        (Ask::Delete { key: b"k" }, "delete k\r\n", ""),
        (Ask::Stats { group: "settings" }, "stats settings\r\n", ""),
    ];
    for (ask, classic, meta) in asks {
        let written = |speech| {
            let mut request = Vec::new();
            ascii::write(ask, speech, &mut request);
            String::from_utf8(request).unwrap()
        };
        assert_eq!(written(Speech::Ascii), classic);
        assert_eq!(written(Speech::Meta), if meta.is_empty() { classic } else { meta });
    }
    let written = |ask| {
        let mut request = Vec::new();
        binary::write(ask, 9, &mut request);
        request
    };
    // As libmemcached writes a SET over a version, but REPLACE.
    assert_eq!(
        written(Ask::Swap { key: b"key", value: b"value", expiry, version: 7 }),
        b"\x80\x03\0\x03\x08\0\0\0\0\0\0\x10\0\0\0\x09\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x64keyvalue"
    );
    assert_eq!(
        written(Ask::Touch { key: b"key", expiry }),
        b"\x80\x1c\0\x03\x04\0\0\0\0\0\0\x07\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\x64key"
    );
    assert_eq!(
        written(Ask::Remove { key: b"key", version: 7 }),
        b"\x80\x04\0\x03\0\0\0\0\0\0\0\x03\0\0\0\x09\0\0\0\0\0\0\0\x07key"
    );
}

#[test]
fn lives_are_counted_in_seconds_up_to_thirty_days() {
    assert_eq!(Expiry::after(Duration::ZERO), Expiry(1));
    assert_eq!(Expiry::after(Duration::from_millis(1001)), Expiry(2));
    assert_eq!(Expiry::after(Duration::from_secs(2_592_000)), Expiry(2_592_000));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
    assert!(Expiry::after(Duration::from_secs(2_592_001)).0 >= now + 2_592_001);
    // What is beyond is stored, and has ended at once.
    assert_eq!(Expiry::after(Duration::MAX), Expiry(2_147_483_647));
}
