<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
no_such_function();
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
