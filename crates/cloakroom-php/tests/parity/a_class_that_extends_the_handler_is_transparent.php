<?php
class Wrapper extends SessionHandler {
    public function read(string $id): string|false { echo "read "; return parent::read($id); }
    public function write(string $id, string $data): bool { echo "write "; return parent::write($id, strrev($data)) && parent::write($id, $data); }
}
session_set_save_handler(new Wrapper(), true);
session_id(SESSION_ID);
session_start();
$_SESSION['a'] = 1;
session_write_close();
session_start(['read_and_close' => true]);
var_dump($_SESSION);
session_start();
$_SESSION['b'] = 2;
session_regenerate_id(true);
var_dump($_SESSION);
session_destroy();
session_id(SESSION_ID);
session_start();
var_dump($_SESSION);
