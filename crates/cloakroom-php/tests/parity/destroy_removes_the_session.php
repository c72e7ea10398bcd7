<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
session_start();
var_dump(session_destroy(), session_status() === PHP_SESSION_NONE);
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
var_dump(session_destroy());
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION, session_destroy(), session_destroy());
