<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
session_start();
$_SESSION['a'] = 2;
var_dump(session_reset(), $_SESSION);
$_SESSION['b'] = 3;
session_write_close();
session_start();
var_dump($_SESSION);
