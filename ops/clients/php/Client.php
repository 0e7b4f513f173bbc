<?php

/**
 * Sends events to tallyd from PHP: the whole client in one file, for PHP 8.1 or newer without any extension.
 *
 * A page calls `Client::track`. `tallyd-drain.php` sends what pages kept in the spool (`Drainer.php`). README.md says
 * what holds.
 *
 * Streams and not curl: Debian's php-cli has no curl, and a socket's deadline is ours from connect to answer.
 */

declare(strict_types=1);

namespace Tallyd;

use DateTimeImmutable;
use DateTimeInterface;
use DateTimeZone;
use InvalidArgumentException;
use RuntimeException;
use Throwable;

final class Client
{
    public const EVENTS = '/api/v1/analytics/events';
    public const BATCH = '/api/v1/analytics/events/batch';

    /** Bytes of one event as JSON. A larger one is refused here. */
    public const EVENT_BYTES_MAX = 8_192;

    /** Failures in a row after which nobody tries for `rest_s`. */
    public const FAILURES_MAX = 3;

    /** Seconds that pages rest at most, whatever Retry-After or the clock says. */
    public const REST_S_MAX = 60;

    /** All settings with their defaults. `fromEnvironment` has the names of the variables. */
    public const DEFAULTS = [
        // http://host:port, https://host or unix:///path/of/the/socket. An address or a socket needs no name server.
        'url' => 'http://127.0.0.1:8080',
        // Of an event whose options name none.
        'domain' => '',
        // The producer's key, or a key's id and its secret to sign with.
        'key' => '',
        'key_id' => '',
        'secret' => '',
        // The folder for events that wait, as an absolute path. Empty: none is kept.
        'spool' => '',
        // Of all that pages may append. While a file is drained, a fourth more.
        'spool_bytes_max' => 67_108_864,
        // For connecting, sending and the answer, together.
        'budget_ms' => 50,
        // After FAILURES_MAX failures. 0: each event is tried.
        'rest_s' => 5,
        // An authority of your own, for https.
        'ca_file' => '',
        // Called with a text for each event that is refused or lost. Null: error_log.
        'report' => null,
        // Of the drainer: an event that waited so long goes to events.dead. Half of the daemon's dedupe.window_s.
        'give_up_s' => 86_400,
        // Of the drainer: how long a batch may take, and the first wait after a failure.
        'batch_budget_ms' => 10_000,
        'backoff_ms' => 500,
    ];

    /** @var array<string, mixed> */
    private static array $configured = [];
    private static ?self $default = null;

    /** @var array<string, mixed> */
    public readonly array $settings;
    public readonly Http $http;
    public readonly Spool $spool;

    /** In a row, of this process; counted only where the spool's folder cannot be written. */
    private int $failures = 0;
    private float $restsUntil = 0.0;

    /**
     * @param array<string, mixed> $settings replace DEFAULTS
     * @throws InvalidArgumentException for a setting that cannot be
     */
    public function __construct(#[\SensitiveParameter] array $settings = [])
    {
        if ($unknown = array_diff_key($settings, self::DEFAULTS)) {
            throw new InvalidArgumentException('unknown setting ' . implode(', ', array_keys($unknown)));
        }
        $this->settings = [...self::DEFAULTS, ...$settings];
        foreach (self::DEFAULTS as $name => $default) {
            if ($default !== null && get_debug_type($this->settings[$name]) !== get_debug_type($default)) {
                throw new InvalidArgumentException("the setting $name must be of type " . get_debug_type($default));
            }
            if (is_int($default) && $this->settings[$name] < ($name === 'rest_s' ? 0 : 1)) {
                throw new InvalidArgumentException("the setting $name is too small");
            }
        }
        if (preg_match('~\A(/|\z)~', $this->settings['spool']) !== 1) {
            throw new InvalidArgumentException('the spool must be an absolute path'); // A page's folder may be any.
        }
        ['url' => $url, 'key' => $key, 'key_id' => $keyId, 'secret' => $secret] = $this->settings;
        $this->http = new Http($url, $key, $keyId, $secret, $this->settings['ca_file']);
        $this->spool = new Spool($this->settings['spool'], $this->settings['spool_bytes_max']);
    }

    /**
     * The settings of `track`, once at the start of an application. What is wrong is reported by `track`.
     *
     * @param array<string, mixed> $settings
     */
    public static function configure(#[\SensitiveParameter] array $settings): void
    {
        self::$configured = $settings;
        self::$default = null;
    }

    /** A client with the settings of TALLYD_URL, TALLYD_KEY and so on, which win over `$settings`. */
    public static function fromEnvironment(#[\SensitiveParameter] array $settings = []): self
    {
        foreach (self::DEFAULTS as $name => $default) {
            $given = getenv('TALLYD_' . strtoupper($name));
            if ($given !== false && $default !== null) {
                $settings[$name] = is_int($default) && preg_match('/\A\d{1,15}\z/', $given) ? (int) $given : $given;
            }
        }
        return new self($settings);
    }

    /**
     * Counts one event. True: it was accepted, or waits in the spool. False: it was refused or lost, and reported.
     *
     * Never throws and never warns, whatever it is given and whatever the daemon, the network or the disk does. Takes
     * at most `budget_ms`, and `Spool::LOCK_MS_MAX` where the event must be kept.
     *
     * @param mixed $options an array: domain, value, event_id, occurred_at
     */
    public static function track(mixed $action, mixed $entityType, mixed $entityId, mixed $options = []): bool
    {
        // Also an application's own handler, which may throw although `@` is in front.
        set_error_handler(static fn (): bool => true);
        try {
            self::$default ??= self::$configured ? new self(self::$configured) : self::fromEnvironment();
            return self::$default->send(self::$default->event($action, $entityType, $entityId, $options));
        } catch (Throwable $error) {
            self::report(self::$configured['report'] ?? null, 'not counted: ' . $error->getMessage());
            return false;
        } finally {
            restore_error_handler();
        }
    }

    /**
     * The event as it will be sent, however often: its id and its time are made here, once.
     *
     * @return array<string, int|string>
     * @throws InvalidArgumentException
     */
    public function event(mixed $action, mixed $entityType, mixed $entityId, mixed $options = []): array
    {
        if (!is_array($options)) {
            throw new InvalidArgumentException('the options must be an array');
        }
        if ($unknown = array_diff_key($options, ['domain' => 0, 'value' => 0, 'event_id' => 0, 'occurred_at' => 0])) {
            throw new InvalidArgumentException('unknown option ' . implode(', ', array_keys($unknown)));
        }
        $value = $options['value'] ?? 1;
        if (!is_int($value)) {
            throw new InvalidArgumentException('the value must be an integer');
        }
        $event = [
            'event_id' => self::text('event_id', $options['event_id'] ?? self::newId()),
            'domain' => self::text('domain', $options['domain'] ?? $this->settings['domain']),
            'entity_type' => self::text('entity_type', $entityType),
            'entity_id' => self::text('entity_id', is_int($entityId) ? (string) $entityId : $entityId),
            'action' => self::text('action', $action),
            'occurred_at' => self::instant($options['occurred_at'] ?? new DateTimeImmutable()),
            'value' => $value,
        ];
        if (strlen(self::json($event)) > self::EVENT_BYTES_MAX) {
            throw new InvalidArgumentException('the event has more than ' . self::EVENT_BYTES_MAX . ' bytes');
        }
        return $event;
    }

    /**
     * Sends an event once within the budget, or keeps it in the spool. As `track` it says whether the event is safe.
     *
     * @param array<string, int|string> $event
     */
    public function send(array $event): bool
    {
        $why = 'after failures nobody tries for a while';
        if ($this->mayTry()) {
            $answer = $this->deliver($event, $this->settings['budget_ms'] / 1000);
            if ($answer->mayBeSentAgain()) {
                $this->failed($answer->retryAfterS);
                $why = $answer->why;
            } else {
                $this->succeeded();
                if (!$answer->isAccepted()) {
                    $this->lose("refused: $answer->why", $event);
                }
                return $answer->isAccepted();
            }
        }
        try {
            $this->spool->append(self::json(['at' => time(), 'event' => $event]));
            return true;
        } catch (RuntimeException $error) {
            $this->lose("lost: $why; {$error->getMessage()}", $event);
            return false;
        }
    }

    /**
     * Sends an event once, and says how that ended. Keeps nothing: for a queue that tries again by itself.
     *
     * @param array<string, int|string> $event
     */
    public function deliver(array $event, float $budgetS): Answer
    {
        return $this->http->post(self::EVENTS, self::json($event), $budgetS);
    }

    public static function json(mixed $value): string
    {
        return json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
    }

    /** A UUID of version 7 (RFC 9562): the milliseconds, then 74 random bits. */
    public static function newId(): string
    {
        $bytes = substr(pack('J', (int) (microtime(true) * 1000)), 2) . random_bytes(10);
        $bytes[6] = chr(ord($bytes[6]) & 0x0F | 0x70);
        $bytes[8] = chr(ord($bytes[8]) & 0x3F | 0x80);
        return vsprintf('%s%s-%s-%s-%s-%s%s%s', str_split(bin2hex($bytes), 4));
    }

    /** @param mixed $report the setting */
    public static function report(mixed $report, string $text): void
    {
        try {
            is_callable($report) ? $report($text) : error_log("tallyd: $text");
        } catch (Throwable) {
            // A page must not break because its report does.
        }
    }

    /** @param array<string, int|string> $event */
    private function lose(string $text, array $event): void
    {
        self::report($this->settings['report'], $text . ' ' . json_encode($event));
    }

    // The circuit: while the daemon does not answer, pages must not wait for it. Its state is the file `circuit` in the
    // spool's folder, which all processes share. It has one byte for each failure in a row. Its mtime says until when
    // nobody tries.

    private function mayTry(): bool
    {
        $now = microtime(true);
        if ($now < $this->restsUntil) {
            return false;
        }
        $file = $this->spool->path('circuit');
        clearstatcache(true, $file);
        $until = $this->settings['spool'] !== '' ? (int) @filemtime($file) : 0;
        if ($until === 0 || @filesize($file) < self::FAILURES_MAX || $this->settings['rest_s'] === 0) {
            return true;
        }
        if ($now < $until && $until <= $now + self::REST_S_MAX + 1) {
            return false;
        }
        // This page tries; the others rest on, so that an outage costs one of them the budget.
        @touch($file, (int) ceil($now) + $this->settings['rest_s']);
        return true;
    }

    private function failed(int $retryAfterS): void
    {
        if ($this->settings['rest_s'] === 0) {
            return;
        }
        $until = (int) ceil(microtime(true)) + min(self::REST_S_MAX, max($retryAfterS, $this->settings['rest_s']));
        $marks = str_repeat('.', $retryAfterS ? self::FAILURES_MAX : 1);
        $file = $this->spool->path('circuit');
        if ($this->spool->isThere() && self::mark($file, $marks)) {
            @touch($file, $until);
            return;
        }
        $this->failures += strlen($marks);
        if ($this->failures >= self::FAILURES_MAX) {
            $this->restsUntil = $until;
        }
    }

    private function succeeded(): void
    {
        $this->failures = 0;
        $file = $this->spool->path('circuit');
        if ($this->settings['spool'] !== '' && is_file($file)) {
            @unlink($file);
        }
    }

    private static function mark(string $file, string $marks): bool
    {
        $opened = Spool::open($file, 'ab');
        return $opened !== false && @fwrite($opened, $marks) === strlen($marks);
    }

    private static function text(string $name, mixed $value): string
    {
        // No Stringable: a model of Eloquent is one, and its text is all of its fields.
        if (!is_string($value) || $value === '') {
            throw new InvalidArgumentException("the $name must be a text that is not empty");
        }
        if (preg_match('//u', $value) !== 1) {
            throw new InvalidArgumentException("the $name must be UTF-8");
        }
        return $value;
    }

    private static function instant(mixed $at): string
    {
        if ($at instanceof DateTimeInterface) {
            $utc = DateTimeImmutable::createFromInterface($at)->setTimezone(new DateTimeZone('UTC'));
            return $utc->format('Y-m-d\TH:i:s.v\Z');
        }
        return self::text('occurred_at', $at);
    }
}

/** How sending ended. */
final class Answer
{
    /** The only statuses with which the daemon refuses for good. Any other may be somebody else's, on the way to it. */
    private const REFUSED = [400, 401, 403, 404, 413, 415, 422];

    /** @param int $status 0: no answer came, so nobody knows whether the daemon has counted */
    public function __construct(
        public readonly int $status,
        public readonly string $why = '',
        public readonly int $retryAfterS = 0,
        public readonly string $body = '',
    ) {
    }

    /** Also a login page is a 200: the body must be the daemon's. */
    public function isAccepted(): bool
    {
        return $this->status >= 200 && $this->status < 300 && ($this->fields()['status'] ?? '') === 'accepted';
    }

    public function mayBeSentAgain(): bool
    {
        return !$this->isAccepted() && !in_array($this->status, self::REFUSED, true);
    }

    /** @return array<string, mixed> the body's object; empty if it is none */
    public function fields(): array
    {
        $found = json_decode($this->body, true, 16);
        return is_array($found) ? $found : [];
    }
}

/** One request a connection, within a deadline. */
final class Http
{
    private const ANSWER_BYTES_MAX = 65_536;
    private const CHUNK_BYTES = 16_384;

    /** Seconds that an answer may ask to wait. */
    private const RETRY_AFTER_S_MAX = 600;
    private const WHY_CHARS_MAX = 300;

    private readonly string $address;
    private readonly string $host;
    private readonly string $prefix;

    /** The name that the certificate must have; empty without TLS. */
    private readonly string $peer;

    /** @throws InvalidArgumentException */
    public function __construct(
        string $url,
        #[\SensitiveParameter] private readonly string $key,
        private readonly string $keyId,
        #[\SensitiveParameter] private readonly string $secret,
        private readonly string $caFile,
    ) {
        foreach ([$url, $key, $keyId] as $header) {
            if (preg_match('/\A[\x21-\x7e]*\z/', $header) !== 1) {
                throw new InvalidArgumentException('url, key and key_id must be visible ASCII');
            }
        }
        if (str_starts_with($url, 'unix:///')) {
            [$this->address, $this->host, $this->prefix, $this->peer] = [$url, 'localhost', '', ''];
            return;
        }
        $parts = parse_url($url);
        $scheme = $parts['scheme'] ?? '';
        if (!isset($parts['host']) || !in_array($scheme, ['http', 'https'], true)) {
            throw new InvalidArgumentException('the url must begin with http://, https:// or unix:///');
        }
        $port = $parts['port'] ?? ($scheme === 'https' ? 443 : 80);
        $this->address = "tcp://{$parts['host']}:$port";
        $this->host = $parts['host'] . (isset($parts['port']) ? ":$port" : '');
        $this->prefix = rtrim($parts['path'] ?? '', '/');
        $this->peer = $scheme === 'https' ? trim($parts['host'], '[]') : '';
    }

    /** Never throws. Waits at most `$budgetS` seconds, besides what the system takes to look up a name. */
    public function post(string $path, string $json, float $budgetS): Answer
    {
        $deadline = hrtime(true) + (int) ($budgetS * 1e9);
        $tls = ['peer_name' => $this->peer, ...($this->caFile !== '' ? ['cafile' => $this->caFile] : [])];
        $context = stream_context_create(['ssl' => $tls, 'socket' => ['tcp_nodelay' => true]]);
        $socket = @stream_socket_client($this->address, $code, $text, $budgetS, STREAM_CLIENT_CONNECT, $context);
        if ($socket === false) {
            return new Answer(0, "no connection: $text");
        }
        stream_set_blocking($socket, false);
        try {
            return $this->ask($socket, $this->request($path, $json), $deadline);
        } finally {
            fclose($socket);
        }
    }

    private function request(string $path, string $json): string
    {
        $headers = [
            "POST $this->prefix$path HTTP/1.1",
            "Host: $this->host",
            'User-Agent: tallyd-php/1',
            'Content-Type: application/json',
            'Content-Length: ' . strlen($json),
            'Connection: close',
        ];
        if ($this->secret !== '') {
            $at = time();
            $signed = hash_hmac('sha256', "$at.$path.$json", $this->secret);
            $headers[] = "X-Tallyd-Signature: key=$this->keyId,t=$at,v1=$signed";
        } elseif ($this->key !== '') {
            $headers[] = "X-Tallyd-Key: $this->key";
        }
        return implode("\r\n", $headers) . "\r\n\r\n" . $json;
    }

    /** @param resource $socket */
    private function ask($socket, string $request, int $deadline): Answer
    {
        if ($this->peer !== '') {
            while (($done = @stream_socket_enable_crypto($socket, true, STREAM_CRYPTO_METHOD_TLS_CLIENT)) === 0) {
                if (!self::wait($socket, false, $deadline)) {
                    return new Answer(0, 'no TLS in time');
                }
            }
            if ($done === false) {
                return new Answer(0, 'the TLS handshake failed');
            }
        }
        while ($request !== '') {
            $sent = @fwrite($socket, $request);
            if ($sent === false || ($sent === 0 && !self::wait($socket, true, $deadline))) {
                break; // The answer may be there all the same: a daemon refuses a body that it has not read.
            }
            $request = substr($request, $sent);
        }
        $text = '';
        while (strlen($text) <= self::ANSWER_BYTES_MAX) {
            $more = @fread($socket, self::CHUNK_BYTES);
            $text .= $more;
            if (self::isWhole($text) || ($more === '' && feof($socket)) || $more === false) {
                break;
            }
            if ($more === '' && !self::wait($socket, false, $deadline)) {
                break;
            }
        }
        return self::parse($text);
    }

    /**
     * Whether it may be read from, or written to, before the deadline.
     *
     * @param resource $socket
     */
    private static function wait($socket, bool $toWrite, int $deadline): bool
    {
        $leftUs = intdiv($deadline - hrtime(true), 1000);
        if ($leftUs <= 0) {
            return false;
        }
        [$read, $write, $except] = $toWrite ? [null, [$socket], null] : [[$socket], null, null];
        return (bool) @stream_select($read, $write, $except, intdiv($leftUs, 1_000_000), $leftUs % 1_000_000);
    }

    private static function isWhole(string $text): bool
    {
        [$head, $body] = self::split($text);
        if ($body === null) {
            return false;
        }
        $length = self::header($head, 'content-length');
        return $length !== '' ? strlen($body) >= (int) $length : str_ends_with($body, "\r\n0\r\n\r\n");
    }

    private static function parse(string $text): Answer
    {
        [$head, $body] = self::split($text);
        if ($body === null || preg_match('~\AHTTP/1\.[01] ([2-5]\d\d)~', $head, $found) !== 1) {
            return new Answer(0, $text === '' ? 'no answer' : 'no whole answer');
        }
        if (strtolower(self::header($head, 'transfer-encoding')) === 'chunked') {
            $body = self::joined($body);
        }
        $after = self::header($head, 'retry-after');
        $date = DateTimeImmutable::createFromFormat(DateTimeInterface::RFC7231, $after, new DateTimeZone('UTC'));
        $afterS = $date ? $date->getTimestamp() - time() : (int) $after;
        $afterS = max(0, min(self::RETRY_AFTER_S_MAX, $afterS));
        $why = preg_replace('/[^\x20-\x7e]+/', ' ', substr($body, 0, self::WHY_CHARS_MAX));
        return new Answer((int) $found[1], trim("$found[1] $why"), $afterS, $body);
    }

    /** @return array{string, ?string} the head, and the body once the head is whole */
    private static function split(string $text): array
    {
        return [...explode("\r\n\r\n", $text, 2), null];
    }

    private static function header(string $head, string $name): string
    {
        return preg_match("~^$name:[ \t]*(.*?)[ \t]*\r?$~mi", $head, $found) === 1 ? $found[1] : '';
    }

    /** The chunks of a body as one text, as far as they are whole. A proxy may send so what the daemon did not. */
    private static function joined(string $body): string
    {
        $text = '';
        while (preg_match('/\A([0-9a-f]{1,6})[^\r]*\r\n/i', $body, $found) === 1 && ($bytes = hexdec($found[1])) > 0) {
            $text .= substr($body, strlen($found[0]), (int) $bytes);
            $body = substr($body, strlen($found[0]) + (int) $bytes + 2);
        }
        return $text;
    }
}

/**
 * The folder with the events that wait. Pages append to `events.0.spool`, or to the next one while another process has
 * its lock, or when it is full. The drainer renames such a file, and reads it then.
 *
 * A page holds the lock from its look at the size to the last byte, and the drainer holds it to rename.
 */
final class Spool
{
    /** More than one, so that a process that the system halts with a lock holds up no other. */
    public const FILES = 4;

    /** Milliseconds that a page tries to get a lock. */
    public const LOCK_MS_MAX = 50;

    /** The same of the drainer. */
    private const TAKE_MS_MAX = 5_000;
    private const LOCK_POLL_US = 200;

    /** @param int $bytesMax of all files that pages append to */
    public function __construct(private readonly string $folder, private readonly int $bytesMax)
    {
    }

    public function path(string $name): string
    {
        return "$this->folder/$name";
    }

    /**
     * The paths of the folder's files `events.….ENDING`, by name. Not by `glob`, which would read the folder's name, too.
     *
     * @return list<string>
     */
    public function files(string $ending): array
    {
        $names = preg_grep("/\Aevents\..+\.$ending\z/", @scandir($this->folder) ?: []);
        return array_values(array_filter(array_map($this->path(...), $names), is_file(...)));
    }

    /** Makes the folder if there is none. */
    public function isThere(): bool
    {
        if ($this->folder === '') {
            return false;
        }
        return is_dir($this->folder) || @mkdir($this->folder, 0700, true) || is_dir($this->folder);
    }

    /**
     * Appends a line; its newline is added here.
     *
     * @throws RuntimeException if it could not; nothing of the line is left then
     */
    public function append(string $line): void
    {
        if (!$this->isThere()) {
            throw new RuntimeException($this->folder === '' ? 'there is no spool' : 'the spool is no folder');
        }
        $until = hrtime(true) + self::LOCK_MS_MAX * 1_000_000;
        do {
            $full = 0;
            for ($number = 0; $number < self::FILES; $number++) {
                $file = $this->locked($this->path("events.$number.spool"), 'a+b');
                if ($file === null) {
                    continue;
                }
                try {
                    if (self::write($file, $line, intdiv($this->bytesMax, self::FILES))) {
                        return;
                    }
                } finally {
                    fclose($file);
                }
                $full++;
            }
            if ($full === self::FILES) {
                throw new RuntimeException('the spool is full');
            }
            usleep(self::LOCK_POLL_US);
        } while (hrtime(true) < $until);
        throw new RuntimeException('the spool is locked by another process');
    }

    /**
     * Appends a line to another file of the folder, which only the caller uses. False: it is full.
     *
     * @throws RuntimeException
     */
    public function appendTo(string $name, string $line): bool
    {
        $file = self::open($this->path($name), 'a+b');
        if ($file === false) {
            throw new RuntimeException("$name cannot be written");
        }
        try {
            return self::write($file, $line, $this->bytesMax);
        } finally {
            fclose($file);
        }
    }

    /**
     * Renames a file that pages append to, and returns its new path; null if there is none. No page writes to it then.
     *
     * @throws RuntimeException
     */
    public function take(): ?string
    {
        $until = hrtime(true) + self::TAKE_MS_MAX * 1_000_000;
        while ($files = $this->files('spool')) {
            foreach ($files as $path) {
                $file = $this->locked($path, 'r+b');
                if ($file !== null) {
                    $taken = $this->path('events.' . Client::newId() . '.draining');
                    $done = rename($path, $taken);
                    fclose($file);
                    return $done ? $taken : throw new RuntimeException('the spool cannot be written');
                }
            }
            if (hrtime(true) > $until) {
                throw new RuntimeException('the spool is locked by another process');
            }
            usleep(self::LOCK_POLL_US);
        }
        return null;
    }

    /**
     * Opens with mode 0600, whatever the umask.
     *
     * @return resource|false
     */
    public static function open(string $path, string $mode)
    {
        $umask = umask(0077);
        $file = @fopen($path, $mode);
        umask($umask);
        return $file;
    }

    /**
     * The file at a path, with its lock; null while another process has it. Closing it gives the lock back, and so does
     * dying.
     *
     * @return resource|null
     * @throws RuntimeException
     */
    private function locked(string $path, string $mode)
    {
        $file = self::open($path, $mode);
        if ($file === false) {
            throw new RuntimeException('the spool cannot be written');
        }
        clearstatcache(true, $path);
        // It may have been renamed before we had its lock.
        if (flock($file, LOCK_EX | LOCK_NB) && fstat($file)['ino'] === @fileinode($path)) {
            return $file;
        }
        fclose($file);
        return null;
    }

    /**
     * False: there is no room.
     *
     * @param resource $file
     * @throws RuntimeException
     */
    private static function write($file, string $line, int $bytesMax): bool
    {
        $size = fstat($file)['size'];
        if ($size + strlen($line) + 2 > $bytesMax) {
            return false;
        }
        // A process that died in the middle left a line without an end.
        $torn = $size > 0 && fseek($file, -1, SEEK_END) === 0 && fread($file, 1) !== "\n";
        $text = ($torn ? "\n" : '') . $line . "\n";
        if (@fwrite($file, $text) !== strlen($text)) {
            ftruncate($file, $size);
            throw new RuntimeException('the disk takes no more');
        }
        return true;
    }
}
