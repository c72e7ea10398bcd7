<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
var_dump(session_gc() === 0, $_SESSION);
