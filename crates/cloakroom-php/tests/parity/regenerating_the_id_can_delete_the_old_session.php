<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
session_start();
var_dump(session_id() === SESSION_ID, session_regenerate_id(true));
$new = session_id();
$_SESSION['b'] = 2;
session_write_close();
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
session_write_close();
session_id($new);
session_start();
var_dump($_SESSION);
