<?php
// ini: session.auto_start=1
var_dump(session_status() === PHP_SESSION_ACTIVE, strlen(session_id()), $_SESSION);
$_SESSION['n'] = 1;
$id = session_id();
session_write_close();
session_id($id);
session_start();
var_dump($_SESSION, session_id() === $id);
