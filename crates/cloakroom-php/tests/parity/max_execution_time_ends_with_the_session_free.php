<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
set_time_limit(1);
while (true) { $x = md5('busy'); }
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
