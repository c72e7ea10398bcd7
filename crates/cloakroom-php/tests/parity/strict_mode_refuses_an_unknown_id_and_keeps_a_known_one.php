<?php
// ini: session.use_strict_mode=1
session_id(SESSION_ID);
session_start();
var_dump(session_id() === SESSION_ID, strlen(session_id()), $_SESSION);
$_SESSION['who'] = 'new';
$id = session_id();
session_write_close();
session_id($id);
session_start();
var_dump(session_id() === $id, $_SESSION);
session_write_close();
session_id(SESSION_ID);
session_start();
var_dump(session_id() === SESSION_ID, $_SESSION);
session_destroy();
// --- next request
ini_set('session.use_strict_mode', 0);
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
// --- next request
session_id(SESSION_ID);
session_start();
var_dump(session_id() === SESSION_ID, $_SESSION);
