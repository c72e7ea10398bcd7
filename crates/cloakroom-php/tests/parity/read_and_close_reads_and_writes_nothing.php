<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
var_dump(session_start(['read_and_close' => true]), session_status() === PHP_SESSION_NONE, $_SESSION);
$_SESSION['a'] = 2;
// --- next request
session_id(SESSION_ID);
session_start(['read_and_close' => '1']);
var_dump($_SESSION, @session_write_close(), session_start(), $_SESSION);
$_SESSION['a'] = 3;
// --- next request
session_id(SESSION_ID);
session_start(options: ['read_and_close' => 0]);
var_dump($_SESSION, session_status() === PHP_SESSION_ACTIVE);
