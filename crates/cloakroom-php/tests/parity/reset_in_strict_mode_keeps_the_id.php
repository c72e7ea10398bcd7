<?php
// ini: session.use_strict_mode=1
session_start();
$_SESSION['a'] = 1;
$id = session_id();
session_write_close();
session_id($id);
session_start();
$_SESSION['a'] = 2;
var_dump(session_reset(), $_SESSION, session_id() === $id);
$_SESSION['b'] = 3;
session_write_close();
session_id($id);
session_start();
var_dump($_SESSION, session_id() === $id);
