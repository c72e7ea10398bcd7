<?php
session_id(SESSION_ID);
session_start();
// --- next request
ini_set('session.use_strict_mode', 1);
session_id(SESSION_ID);
session_start();
var_dump(session_id() === SESSION_ID, $_SESSION);
$_SESSION['a'] = 1;
// --- next request
session_id(SESSION_ID);
session_start();
session_unset();
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
