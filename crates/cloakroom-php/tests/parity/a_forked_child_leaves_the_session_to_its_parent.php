<?php
if (!function_exists('pcntl_fork')) { exit("no pcntl\n"); }
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
$child = pcntl_fork();
if ($child === 0) {
    session_id(SESSION_ID);
    session_start();
    $_SESSION['child'] = 2;
    session_write_close();
    ob_clean();
    exit(0);
}
pcntl_waitpid($child, $status);
session_id(SESSION_ID);
session_start();
$_SESSION['parent'] = 3;
session_write_close();
session_start();
var_dump($status, $_SESSION);
