<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
var_dump(session_regenerate_id(false));
$new = session_id();
$_SESSION['b'] = 2;
session_write_close();
var_dump($new !== SESSION_ID);
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
session_write_close();
session_id($new);
session_start();
var_dump($_SESSION);
