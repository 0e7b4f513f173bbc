<?php

/**
 * Sends the events that pages kept in the spool, in batches, with the ids they have had from the beginning.
 *
 * `tallyd-drain.php` and Laravel's `tallyd:drain` run it. It may be killed at any line. What was sent and not noted is
 * sent again, and the daemon finds the ids known. Steps: rename a file that pages append to; send a batch; write what
 * was refused to events.dead; note the offset; delete the file. The next run drains a file that was renamed.
 */

declare(strict_types=1);

namespace Tallyd;

use Closure;
use InvalidArgumentException;
use RuntimeException;

/** An event of the spool that is not settled yet. */
final class Waiting
{
    /** @param int $start where its line begins in the file */
    public function __construct(public readonly int $start, public readonly int $at, public readonly string $json)
    {
    }
}

final class Drainer
{
    public const BATCH_EVENTS = 500;
    public const BATCH_BYTES = 262_144;
    public const LINE_BYTES_MAX = 2 * Client::EVENT_BYTES_MAX;

    /** Failures in a row after which --once ends, and --follow says so. */
    public const TRIES = 5;

    /** Milliseconds. */
    public const BACKOFF_MS_MAX = 60_000;
    public const POLL_MS = 500;

    private readonly Spool $spool;

    /** @var array<string, int> */
    private array $counts = ['sent' => 0, 'known' => 0, 'refused' => 0, 'given up' => 0, 'damaged' => 0];
    private int $failures = 0;

    /** Events of a batch. Less after one that the daemon would not read as a whole, for the rest of the file. */
    private int $readable = self::BATCH_EVENTS;

    /** The same. Less after one of which a rate limit took a part, until the next that it took as a whole. */
    private int $affordable = self::BATCH_EVENTS;
    private bool $deadIsFull = false;

    /** Whether anything went to events.dead. */
    private bool $isDead = false;

    /** @param Closure(string): void $say is told counts, and why events wait */
    public function __construct(
        private readonly Client $client,
        private readonly bool $follow,
        private readonly Closure $say,
    ) {
        $this->spool = $client->spool;
    }

    /**
     * @return int the exit code
     * @throws InvalidArgumentException without the folder of a spool
     * @throws RuntimeException if the folder cannot be used
     */
    public function run(): int
    {
        if (!$this->spool->isThere()) {
            throw new InvalidArgumentException('name the folder of the spool: TALLYD_SPOOL');
        }
        $lock = Spool::open($this->spool->path('drain.lock'), 'c');
        if ($lock === false) {
            throw new RuntimeException('the spool cannot be written; run this as the user that PHP runs as');
        }
        while (!flock($lock, LOCK_EX | LOCK_NB)) {
            if (!$this->follow) {
                ($this->say)('another drainer is at work');
                return 0;
            }
            usleep(self::POLL_MS * 1000);
        }
        do {
            $done = $this->drainAll();
            if ($this->follow) {
                usleep(self::POLL_MS * 1000);
            }
        } while ($this->follow);
        return $done && !$this->isDead ? 0 : 1;
    }

    /** Whether nothing waits any more. */
    private function drainAll(): bool
    {
        $before = $this->counts;
        $done = true;
        while ($done && ($file = $this->next()) !== null) {
            $done = $this->drain($file);
        }
        if ($this->counts !== $before || !$this->follow) {
            $counted = array_map(static fn ($name, $n): string => "$name $n", array_keys($this->counts), $this->counts);
            ($this->say)(implode(', ', $counted) . ($done ? '' : '; events wait'));
        }
        return $done;
    }

    /** The oldest file to drain. */
    private function next(): ?string
    {
        foreach ($this->spool->files('at') as $offset) {
            if (!is_file(substr($offset, 0, -3))) {
                @unlink($offset); // Somebody has taken the file away.
            }
        }
        return $this->spool->files('draining')[0] ?? $this->spool->take();
    }

    /** Whether all of the file is settled; the file is deleted then. */
    private function drain(string $path): bool
    {
        $file = @fopen($path, 'rb');
        if ($file === false) {
            throw new RuntimeException("$path cannot be read");
        }
        $this->readable = $this->affordable = self::BATCH_EVENTS;
        fseek($file, self::offset($path, $file));
        $waiting = [];
        while ($waiting = $this->filled($waiting, $file)) {
            $batch = array_slice($waiting, 0, min($this->readable, $this->affordable));
            $events = array_map(static fn (Waiting $each): string => $each->json, $batch);
            $answer = $this->client->http->post(
                Client::BATCH,
                '[' . implode(',', $events) . ']',
                $this->client->settings['batch_budget_ms'] / 1000,
            );
            $left = $this->settle($batch, $answer);
            $progress = count($left) < count($batch);
            $waiting = [...$left, ...array_slice($waiting, count($batch))];
            self::note($path, $file, $waiting ? $waiting[0]->start : ftell($file));
            if (!$this->pause($answer, $progress)) {
                return false;
            }
        }
        fclose($file);
        // The note first: another file of this name must not be taken for one that is sent.
        @unlink("$path.new");
        @unlink("$path.at");
        if (!@unlink($path)) {
            throw new RuntimeException("$path cannot be deleted");
        }
        return true;
    }

    /**
     * The events that wait, and as many more of the file as a batch has room for.
     *
     * @param list<Waiting> $waiting
     * @param resource $file
     * @return list<Waiting>
     */
    private function filled(array $waiting, $file): array
    {
        $waiting = array_values(array_filter($waiting, $this->isYoung(...)));
        $bytes = array_sum(array_map(static fn (Waiting $each): int => strlen($each->json), $waiting));
        while (count($waiting) < self::BATCH_EVENTS && $bytes < self::BATCH_BYTES) {
            $start = ftell($file);
            $line = fgets($file, self::LINE_BYTES_MAX);
            if ($line === false) {
                break;
            }
            $kept = json_decode($line, true, 8);
            if (!is_int($kept['at'] ?? null) || !is_array($kept['event'] ?? null)) {
                if (trim($line) !== '') {
                    $this->counts['damaged']++;
                    $this->write(['why' => 'damaged: no event', 'line' => $line]);
                }
                continue;
            }
            $event = new Waiting($start, $kept['at'], Client::json($kept['event']));
            if ($this->isYoung($event)) {
                $waiting[] = $event;
                $bytes += strlen($line);
            }
        }
        return $waiting;
    }

    /** Buries an event that is not: the daemon may have forgotten its id, and would count it once more. */
    private function isYoung(Waiting $event): bool
    {
        $waitedS = time() - $event->at;
        // In the future, if a clock was or is wrong: then nobody knows how long it has waited.
        $young = abs($waitedS) <= $this->client->settings['give_up_s'];
        if (!$young) {
            $this->bury('given up', $waitedS > 0 ? 'it has waited too long' : 'a clock is wrong', $event);
        }
        return $young;
    }

    /**
     * What is left of a batch to be sent again.
     *
     * @param list<Waiting> $batch
     * @return list<Waiting>
     */
    private function settle(array $batch, Answer $answer): array
    {
        $fields = $answer->fields();
        if ($answer->isAccepted()) {
            return $this->accepted($batch, $fields);
        }
        if ($answer->mayBeSentAgain()) {
            return $batch;
        }
        $errors = is_array($fields['errors'] ?? null) ? $fields['errors'] : [];
        $other = preg_grep('/\Aevents\.\d+\./', array_keys($errors), PREG_GREP_INVERT);
        $eachIsRefused = $answer->status === 422 && $errors && !$other;
        if (in_array($answer->status, [400, 413, 422], true) && !$eachIsRefused && count($batch) > 1) {
            $this->readable = intdiv(count($batch), 2);
            return $batch;
        }
        foreach ($batch as $index => $each) {
            $isOwn = static fn (int|string $field): bool => str_starts_with("$field", "events.$index.");
            $own = array_filter($errors, $isOwn, ARRAY_FILTER_USE_KEY);
            $this->bury('refused', $own ? "$answer->status " . Client::json($own) : $answer->why, $each);
        }
        return [];
    }

    /**
     * @param list<Waiting> $batch
     * @param array<string, mixed> $fields of the answer
     * @return list<Waiting>
     */
    private function accepted(array $batch, array $fields): array
    {
        foreach (is_array($fields['rejected'] ?? null) ? $fields['rejected'] : [] as $refused) {
            $index = $refused['index'] ?? null;
            if (is_int($index) && isset($batch[$index])) {
                $this->bury('refused', Client::json($refused['errors'] ?? ''), $batch[$index]);
                unset($batch[$index]);
            }
        }
        $good = array_values($batch);
        $this->counts['known'] += (int) ($fields['duplicates'] ?? 0);
        // Some were refused and are not named. All are sent again: those that were counted are known.
        $settled = ($fields['rejected_more'] ?? 0) ? 0 : count($good) - (int) ($fields['limited'] ?? 0);
        $this->counts['sent'] += max(0, $settled);
        $limited = (int) ($fields['limited'] ?? 0) > 0;
        $this->affordable = $limited ? max(1, $settled) : min(self::BATCH_EVENTS, 2 * $this->affordable);
        return array_slice($good, max(0, $settled));
    }

    /** Waits as long as the answer asks, or longer after failures. False: --once has tried often enough. */
    private function pause(Answer $answer, bool $progress): bool
    {
        $split = !$progress && !$answer->isAccepted() && !$answer->mayBeSentAgain();
        if ($progress || $split) {
            $this->failures = 0;
            sleep($answer->retryAfterS);
            return true;
        }
        $this->failures++;
        if ($this->failures === self::TRIES) {
            ($this->say)("the daemon does not take events: $answer->why");
            if (!$this->follow) {
                return false;
            }
        }
        $mostMs = min(self::BACKOFF_MS_MAX, $this->client->settings['backoff_ms'] * 2 ** min(16, $this->failures - 1));
        // Jitter: after an outage not all drainers come back at once.
        usleep(1000 * max($answer->retryAfterS * 1000, random_int(intdiv($mostMs, 2), $mostMs)));
        return true;
    }

    private function bury(string $count, string $why, Waiting $event): void
    {
        $this->counts[$count]++;
        $this->write(['why' => "$count: $why", 'at' => $event->at, 'event' => json_decode($event->json)]);
    }

    /** @param array<string, mixed> $line of events.dead. It is one of the spool, too, if it has an event */
    private function write(array $line): void
    {
        $this->isDead = true;
        $json = json_encode($line, JSON_INVALID_UTF8_SUBSTITUTE | JSON_UNESCAPED_SLASHES);
        if (!$this->spool->appendTo('events.dead', $json) && !$this->deadIsFull) {
            $this->deadIsFull = true;
            ($this->say)('events.dead is full; what would go there is only counted');
        }
    }

    /**
     * Where the first event that is not settled begins.
     *
     * @param resource $file
     */
    private static function offset(string $path, $file): int
    {
        $noted = (string) @file_get_contents("$path.at");
        $isOwn = preg_match('/\A(\d+) (\d{1,15})\z/', $noted, $found) === 1 && $found[1] === self::inode($file);
        $offset = $isOwn ? (int) $found[2] : 0;
        // If a note is wrong, or that of another file of this name: from the beginning, whose events are known.
        return $offset && fseek($file, $offset - 1) === 0 && fgetc($file) === "\n" ? $offset : 0;
    }

    /**
     * By a rename, so that a note is whole or the one before.
     *
     * @param resource $file
     */
    private static function note(string $path, $file, int $offset): void
    {
        $note = Spool::open("$path.new", 'w');
        $written = $note !== false && @fwrite($note, self::inode($file) . " $offset") && fclose($note);
        if (!$written || !@rename("$path.new", "$path.at")) {
            throw new RuntimeException('the spool cannot be written');
        }
    }

    /** @param resource $file */
    private static function inode($file): string
    {
        return (string) fstat($file)['ino'];
    }
}
