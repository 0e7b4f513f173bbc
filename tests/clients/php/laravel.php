<?php

/** Runs the provider, the job and the command, with illuminate.php in place of Laravel. Prints what came of them. */

declare(strict_types=1);

use Tallyd\Client;
use Tallyd\Laravel\TallydServiceProvider;
use Tallyd\Laravel\TrackEvent;

require __DIR__ . '/illuminate.php';
$client = __DIR__ . '/../../../ops/clients/php';
require "$client/Client.php";
require "$client/Drainer.php";
foreach (['TallydServiceProvider', 'TrackEvent', 'DrainCommand'] as $file) {
    require "$client/laravel/$file.php";
}

[, $daemon, $nowhere, $movie, $folder] = $argv;
$run = static function (string $url) use ($folder, $movie): array {
    putenv("TALLYD_URL=$url");
    $app = new Tests\Application($folder);
    $provider = new TallydServiceProvider($app);
    $provider->register();
    $provider->boot();
    $job = unserialize(serialize(new TrackEvent('view', 'movie', $movie)));
    $job->handle($app->make(Client::class));
    $refused = new TrackEvent('like', 'movie', $movie);
    $refused->handle($app->make(Client::class));
    $tracked = Client::track('view', 'movie', $movie);
    $command = new $app->commands[0]();
    $code = $command->handle($app->make(Client::class));
    return [
        'tracked' => $tracked,
        'job' => $job->job,
        'refused' => $refused->job,
        'retry_until' => $job->retryUntil()->getTimestamp() - time(),
        'drain' => $code,
        'lines' => $command->lines,
    ];
};
putenv('TALLYD_DOMAIN=jav');
echo json_encode([$run($daemon), $run($nowhere), $run($daemon)], JSON_THROW_ON_ERROR);
