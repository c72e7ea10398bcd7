<?php
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
register_shutdown_function(function () { $_SESSION['b'] = 2; echo "shutdown\n"; });
exit("bye\n");
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
