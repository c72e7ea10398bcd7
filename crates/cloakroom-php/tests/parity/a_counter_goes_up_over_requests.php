<?php
session_id(SESSION_ID);
var_dump(session_start(), $_SESSION);
$_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
// --- next request
session_id(SESSION_ID);
session_start();
$_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
var_dump($_SESSION, session_write_close());
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION, session_encode());
