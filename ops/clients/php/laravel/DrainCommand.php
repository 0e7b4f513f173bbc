<?php

declare(strict_types=1);

namespace Tallyd\Laravel;

use Illuminate\Console\Command;
use Tallyd\Client;
use Tallyd\Drainer;

/** `php artisan tallyd:drain`, each minute by the scheduler, or with --follow under a supervisor. */
final class DrainCommand extends Command
{
    protected $signature = 'tallyd:drain {--follow : Go on until it is stopped}';
    protected $description = 'Send the events that wait in the spool to tallyd';

    public function handle(Client $client): int
    {
        return (new Drainer($client, (bool) $this->option('follow'), $this->line(...)))->run();
    }
}
