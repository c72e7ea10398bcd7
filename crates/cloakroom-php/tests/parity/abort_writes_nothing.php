<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
session_start();
$_SESSION['a'] = 2;
var_dump(session_abort(), session_status() === PHP_SESSION_NONE);
session_start();
var_dump($_SESSION);
