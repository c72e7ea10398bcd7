<?php
/**
 * Does on the wire what Aws\DynamoDb\SessionHandler of the AWS SDK for PHP 3 does, and makes of the answers what that makes
 * of them, its weak spots included: for tests of servers that share sessions with it. Without the SDK, and nothing of it.
 *
 *     SdkSessionHandler::at('http://127.0.0.1:8000', ['table_name' => 'sessions', 'locking' => true])->register();
 */
final class SdkSessionHandler implements SessionHandlerInterface
{
    /** The names and defaults of SessionHandler::fromClient(); session_lifetime is session.gc_maxlifetime unless given. */
    private const DEFAULTS = [
        'table_name' => 'sessions',
        'hash_key' => 'id',
        'data_attribute' => 'data',
        'data_attribute_type' => 'string', // or 'binary'
        'session_lifetime_attribute' => 'expires',
        'consistent_read' => true,
        'locking' => false,
        'max_lock_wait_time' => 10,           // seconds
        'min_lock_retry_microtime' => 10000,
        'max_lock_retry_microtime' => 50000,
    ];

    /** Where it is an array, requests ask for their price, and it is summed up here by operation: [requests, units]. */
    public static ?array $billed = null;

    private string $sessionName = '';
    /** Whose data was read or written last. */
    private ?string $openId = null;
    private string $dataRead = '';
    /** Outlives a close, as it does there. */
    private bool $written = false;

    private function __construct(private string $endpoint, private array $config)
    {
    }

    public static function at(string $endpoint, array $config = []): self
    {
        $lifetime = ['session_lifetime' => (int) ini_get('session.gc_maxlifetime')];
        return new self($endpoint, $config + $lifetime + self::DEFAULTS);
    }

    public function register(): bool
    {
        return session_set_save_handler($this, true);
    }

    public function open(string $path, string $name): bool
    {
        $this->sessionName = $name;
        return true;
    }

    public function read(string $id): string
    {
        $this->openId = $id;
        $this->dataRead = '';
        $item = $this->config['locking'] ? $this->lockedItem($id) : $this->item($id);
        $expires = $item[$this->config['session_lifetime_attribute']] ?? null;
        $data = $item[$this->config['data_attribute']] ?? null;
        // An item without either is an empty session, whatever the other says.
        if ($expires !== null && $data !== null) {
            if ($expires > time()) {
                $this->dataRead = $data;
            } else {
                $this->destroy($id);
            }
        }
        return $this->dataRead;
    }

    public function write(string $id, string $data): bool
    {
        $changed = $id !== $this->openId || $data !== $this->dataRead;
        $this->openId = $id;
        return $this->written = $this->update($id, $data, $changed);
    }

    public function destroy(string $id): bool
    {
        $this->openId = $id;
        return $this->written = $this->try("deleting session $id", 'DeleteItem', $this->key($id));
    }

    /** Writes where nothing was written: without a lock as well, and after read_and_close. */
    public function close(): bool
    {
        $id = session_id();
        if ($id !== $this->openId || !$this->written) {
            $this->written = $this->update($id, '', false);
        }
        return $this->written;
    }

    public function gc(int $lifetime): int|false
    {
        return 1;
    }

    /** What a cron job has to call. */
    public function garbageCollect(): void
    {
        $request = [
            'AttributesToGet' => [$this->config['hash_key']],
            'ScanFilter' => [
                $this->config['session_lifetime_attribute'] => [
                    'ComparisonOperator' => 'LT',
                    'AttributeValueList' => [['N' => (string) time()]],
                ],
                'lock' => ['ComparisonOperator' => 'NULL'],
            ],
        ];
        do {
            $page = $this->ask('Scan', $request);
            foreach (array_chunk($page['Items'], 25) as $keys) {
                $deletes = array_map(fn ($key) => ['DeleteRequest' => ['Key' => $key]], $keys);
                $this->send('BatchWriteItem', ['RequestItems' => [$this->config['table_name'] => $deletes]]);
            }
            $request['ExclusiveStartKey'] = $page['LastEvaluatedKey'] ?? null;
        } while ($request['ExclusiveStartKey'] !== null);
    }

    /** Without a lock. Whatever goes wrong looks like an empty session. */
    private function item(string $id): array
    {
        try {
            $consistent = ['ConsistentRead' => (bool) $this->config['consistent_read']];
            return self::plain($this->ask('GetItem', $this->key($id) + $consistent)['Item'] ?? []);
        } catch (DynamoDbRefusal) {
            return [];
        }
    }

    /** Locks and reads at once, again and again; after the longest wait, or another error, the session is empty. */
    private function lockedItem(string $id): array
    {
        $request = $this->key($id) + [
            'Expected' => ['lock' => ['Exists' => false]],
            'AttributeUpdates' => ['lock' => ['Value' => ['N' => '1']]],
            'ReturnValues' => 'ALL_NEW',
        ];
        $end = time() + $this->config['max_lock_wait_time'];
        while (true) {
            try {
                return self::plain($this->ask('UpdateItem', $request)['Attributes'] ?? []);
            } catch (DynamoDbRefusal $refusal) {
                if ($refusal->kind !== 'ConditionalCheckFailedException' || time() >= $end) {
                    return [];
                }
                usleep(rand($this->config['min_lock_retry_microtime'], $this->config['max_lock_retry_microtime']));
            }
        }
    }

    /** Puts off the expiry and removes the lock, whoever holds it; the data only where they have changed. */
    private function update(string $id, string $data, bool $changed): bool
    {
        $expires = time() + $this->config['session_lifetime'];
        $updates = [
            $this->config['session_lifetime_attribute'] => ['Value' => ['N' => (string) $expires]],
            'lock' => ['Action' => 'DELETE'],
        ];
        if ($changed) {
            $value = $this->config['data_attribute_type'] == 'binary' ? ['B' => base64_encode($data)] : ['S' => $data];
            $updates[$this->config['data_attribute']] = $data == '' ? ['Action' => 'DELETE'] : ['Value' => $value];
        }
        return $this->try("writing session $id", 'UpdateItem', $this->key($id) + ['AttributeUpdates' => $updates]);
    }

    private function key(string $id): array
    {
        $id = trim("{$this->sessionName}_$id", '_');
        return ['Key' => [$this->config['hash_key'] => ['S' => $id]]];
    }

    /** Attributes without their types: whatever was written, its value is taken. */
    private static function plain(array $item): array
    {
        return array_map(fn ($value) => isset($value['B']) ? base64_decode($value['B']) : current($value), $item);
    }

    private function try(string $doing, string $operation, array $request): bool
    {
        try {
            $this->ask($operation, $request);
            return true;
        } catch (DynamoDbRefusal $refusal) {
            trigger_error("Error $doing: {$refusal->getMessage()}", E_USER_WARNING);
            return false;
        }
    }

    private function ask(string $operation, array $request): array
    {
        if (self::$billed === null) {
            return $this->send($operation, ['TableName' => $this->config['table_name']] + $request);
        }
        $request += ['ReturnConsumedCapacity' => 'TOTAL'];
        $answer = $this->send($operation, ['TableName' => $this->config['table_name']] + $request);
        [$requests, $units] = self::$billed[$operation] ?? [0, 0];
        $more = $answer['ConsumedCapacity']['CapacityUnits'];
        self::$billed[$operation] = [$requests + 1, $units + $more];
        return $answer;
    }

    /** The SDK's client repeats 10 times what may have been bad luck, after 0, 50, 100, 200, ... milliseconds. */
    private function send(string $operation, array $request): array
    {
        for ($attempt = 0; ; $attempt++) {
            try {
                return $this->exchange($operation, $request);
            } catch (DynamoDbRefusal $refusal) {
                if (!$refusal->passing() || $attempt >= 10) {
                    throw $refusal;
                }
                usleep($attempt == 0 ? 0 : 50_000 * 2 ** ($attempt - 1));
            }
        }
    }

    private function exchange(string $operation, array $request): array
    {
        $headers = [
            'Content-Type: application/x-amz-json-1.0',
            "X-Amz-Target: DynamoDB_20120810.$operation",
            'X-Amz-Date: ' . gmdate('Ymd\THis\Z'),
            // The engines of the tests do not check who signed.
            'Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, '
                . 'SignedHeaders=host, Signature=none',
            'Connection: close',
        ];
        // A request that cannot be JSON (a string that is not UTF-8) goes out empty there, too.
        $content = (string) json_encode($request, JSON_UNESCAPED_SLASHES);
        $context = stream_context_create(['http' => [
            'method' => 'POST', 'header' => $headers, 'content' => $content,
            'protocol_version' => 1.1, 'ignore_errors' => true, 'timeout' => 60,
        ]]);
        $body = @file_get_contents("$this->endpoint/", false, $context);
        if ($body === false) {
            throw new DynamoDbRefusal(0, 'unreached', error_get_last()['message'] ?? '');
        }
        $status = (int) explode(' ', $http_response_header[0])[1];
        $answer = json_decode($body, true) ?? [];
        if ($status != 200) {
            $kind = substr(strrchr('#' . ($answer['__type'] ?? ''), '#'), 1);
            throw new DynamoDbRefusal($status, $kind, "$kind: " . ($answer['message'] ?? $answer['Message'] ?? $body));
        }
        return $answer;
    }
}

final class DynamoDbRefusal extends RuntimeException
{
    public function __construct(public readonly int $status, public readonly string $kind, string $message)
    {
        parent::__construct($message);
    }

    public function passing(): bool
    {
        return $this->status == 0 || $this->status >= 500
            || in_array($this->kind, ['ProvisionedThroughputExceededException', 'ThrottlingException', 'RequestLimitExceeded']);
    }
}
