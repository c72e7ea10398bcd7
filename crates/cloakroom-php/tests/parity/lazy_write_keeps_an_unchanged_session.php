<?php
// ini: session.lazy_write=1
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = str_repeat('x', 5000);
// --- next request
session_id(SESSION_ID);
session_start();
var_dump(md5(session_encode()));
// --- next request
session_id(SESSION_ID);
session_start();
var_dump(md5(session_encode()));
$_SESSION['a'] = 'short';
// --- next request
ini_set('session.lazy_write', 0);
session_id(SESSION_ID);
session_start();
var_dump(session_encode());
