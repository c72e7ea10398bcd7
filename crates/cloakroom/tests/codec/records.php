<?php
// Prints one record a line, in hexadecimal, and the lengths of those of its proper prefixes that this PHP decodes.
// Arguments: seed, number of records.
error_reporting(E_ALL & ~E_DEPRECATED & ~E_WARNING & ~E_NOTICE);

class Plain { public $a; protected $b; private $c; function fill($a, $b, $c) { [$this->a, $this->b, $this->c] = [$a, $b, $c]; return $this; } }
class Magic { public $data; function __serialize(): array { return ['m' => $this->data]; } function __unserialize(array $data): void { $this->data = $data; } }
class Old implements Serializable { public $text = ''; function serialize() { return $this->text; } function unserialize($text) { $this->text = $text; } }
enum Suit: string { case Hearts = 'h'; case Spades = 's'; }

class Nowhere implements SessionHandlerInterface {
    function open($path, $name): bool { return true; }
    function close(): bool { return true; }
    function read($id): string|false { return ''; }
    function write($id, $data): bool { return true; }
    function destroy($id): bool { return true; }
    function gc($lifetime): int|false { return 0; }
}

$handler = ini_get('session.serialize_handler');

function text(int $longest): string {
    $odd = ['"', ';', ':', '{', '}', '|', "\0", "\n", 'é', "\xff", 's:1:"x";', 'n|i:1;', ' ', 'N;', "\x01"];
    $text = '';
    for ($i = mt_rand(0, $longest); $i > 0; $i--) {
        $text .= mt_rand(0, 2) ? chr(mt_rand(97, 122)) : $odd[array_rand($odd)];
    }
    return $text;
}

function value(int $depth, array &$seen) {
    $kind = mt_rand(0, $depth > 0 ? 15 : 8);
    switch ($kind) {
        case 0: return null;
        case 1: return (bool) mt_rand(0, 1);
        case 2: return mt_rand(-300, 300);
        case 3: return [PHP_INT_MAX, PHP_INT_MIN, 65536, -70000, 5000000000][mt_rand(0, 4)];
        case 4: return [0.1, -0.0, 1e25, 1.5e-10, INF, -INF, NAN, M_PI, 3.0][mt_rand(0, 8)];
        case 5: return text(12);
        case 6: return str_repeat(text(3), mt_rand(0, 90));
        case 7: return Suit::from(['h', 's'][mt_rand(0, 1)]);
        case 8: return $seen ? $seen[array_rand($seen)] : new stdClass;
        case 9: return $seen[] = (new Plain)->fill(value($depth - 1, $seen), value($depth - 1, $seen), value(0, $seen));
        case 10: $magic = new Magic; $seen[] = $magic; $magic->data = value($depth - 1, $seen); return $magic;
        case 11: $old = new Old; $old->text = text(20); return $seen[] = $old;
        default:
            $array = [];
            for ($i = mt_rand(0, 5); $i > 0; $i--) {
                $array[mt_rand(0, 1) ? text(6) : mt_rand(-9, 99999)] = value($depth - 1, $seen);
            }
            if ($array && mt_rand(0, 3) == 0) {
                $array['twin'] = &$array[array_key_first($array)];
            }
            return $array;
    }
}

function begin(): void {
    if (session_status() === PHP_SESSION_ACTIVE) session_abort();
    session_id('test');
    session_start();
    $_SESSION = [];
}

session_set_save_handler(new Nowhere);
mt_srand((int) $argv[1]);
for ($record = 0; $record < (int) $argv[2]; $record++) {
    begin();
    $seen = [];
    for ($i = mt_rand(1, 4); $i > 0; $i--) {
        // A | in a name is refused by `php`, and in `php_binary` it looks like `php`; so does a control character at the
        // start of a name in `php` look like `php_binary`.
        $name = ltrim(strtr(text(4), '|', '!'), "\0..\x1f");
        $_SESSION[$name . ($name === (string) (int) $name ? 'x' : '')] = value(3, $seen);
    }
    $bytes = session_encode();
    if ($bytes === false || $bytes === '') continue;
    $accepted = [];
    for ($length = 1; $length < strlen($bytes); $length++) {
        begin();
        // igbinary 3.2 crashes on some records that are cut off.
        if ($handler !== 'igbinary' && session_decode(substr($bytes, 0, $length))) {
            $accepted[] = $length;
        }
    }
    echo bin2hex($bytes), ' ', implode(',', $accepted), "\n";
}
