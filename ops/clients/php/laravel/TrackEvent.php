<?php

declare(strict_types=1);

namespace Tallyd\Laravel;

use DateTimeImmutable;
use DateTimeInterface;
use Illuminate\Bus\Queueable;
use Illuminate\Contracts\Queue\ShouldQueue;
use Illuminate\Foundation\Bus\Dispatchable;
use Illuminate\Queue\InteractsWithQueue;
use RuntimeException;
use Tallyd\Client;

/**
 * An event by way of Laravel's own queue, in place of `Client::track`. The queue keeps the event with its id and time,
 * and tries again; the spool is not used. Dispatching throws if the queue cannot be reached, or if the event is none.
 */
final class TrackEvent implements ShouldQueue
{
    use Dispatchable;
    use InteractsWithQueue;
    use Queueable;

    /** Seconds. A worker of a queue may wait longer than a page. */
    private const BUDGET_S = 5.0;
    private const RELEASE_S_MAX = 600;

    /** @var array<string, int|string> */
    public array $event;
    public int $giveUpAt;

    /** @param array<string, mixed> $options as of `Client::track` */
    public function __construct(string $action, string $entityType, int|string $entityId, array $options = [])
    {
        $client = app(Client::class);
        $this->event = $client->event($action, $entityType, $entityId, $options);
        $this->giveUpAt = time() + $client->settings['give_up_s'];
    }

    public function handle(Client $client): void
    {
        $answer = $client->deliver($this->event, self::BUDGET_S);
        if ($answer->mayBeSentAgain()) {
            $mostS = min(self::RELEASE_S_MAX, 2 ** min(16, $this->attempts()));
            $this->release(max($answer->retryAfterS, random_int(intdiv($mostS, 2), $mostS)));
        } elseif (!$answer->isAccepted()) {
            $this->fail(new RuntimeException("tallyd refused the event: $answer->why"));
        }
    }

    /** Before the daemon may have forgotten the id. */
    public function retryUntil(): DateTimeInterface
    {
        return new DateTimeImmutable("@$this->giveUpAt");
    }
}
