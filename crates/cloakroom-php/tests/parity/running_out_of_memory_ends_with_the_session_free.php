<?php
// ini: memory_limit=8M
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
$bytes = '';
while (true) { $bytes .= str_repeat('x', 1 << 20); }
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
