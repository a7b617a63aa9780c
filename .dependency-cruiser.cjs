// Who may import whom: the rules of ARCHITECTURE.md, section "Codemap".
const only = (from, allowed, comment) => ({
  name: `${from}-imports`,
  comment,
  severity: 'error',
  from: { path: `^${from}/` },
  to: { pathNot: [`^${from}/`, ...allowed] },
})

module.exports = {
  forbidden: [
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-unresolvable', severity: 'error', from: {}, to: { couldNotResolve: true, pathNot: '^cloudflare:' } },
    {
      name: 'only-runtime-knows-onnxruntime',
      severity: 'error',
      from: { pathNot: '^(runtime|test|bench)/' },
      to: { path: 'node_modules/(onnxruntime-|webgpu/)' },
    },
    {
      name: 'contracts-import-their-schema-library-only',
      severity: 'error',
      from: { path: '^(compiler|gpu-backend|jobs)/contract\\.ts$' },
      to: { pathNot: 'node_modules/zod/' },
    },
    only(
      'gateway',
      [
        '^compiler/contract\\.ts$',
        '^gpu-backend/contract\\.ts$',
        '^jobs/contract\\.ts$',
        '^docs/openapi(-admin)?\\.json$',
        '^telemetry/',
        'node_modules/(@noble/hashes|hono|drizzle-orm|zod|jose|eventsource-parser)/',
        'node_modules/@hono/zod-openapi/',
        '^cloudflare:',
      ],
      'Web standards, hono, drizzle and the contracts; never node:*, never onnxruntime.',
    ),
    {
      name: 'openapi-is-declared-beside-the-gateway',
      comment:
        'The library that writes the documents is half as large again as the Worker; the Worker serves what it wrote.',
      severity: 'error',
      from: { path: '^gateway/', pathNot: '^gateway/openapi/' },
      to: { path: '^gateway/openapi/|node_modules/@hono/zod-openapi/' },
    },
    only('telemetry', [], 'Spans and their way out, on web standards alone: every tier may use it, and it knows none.'),
    only(
      'compiler',
      ['node_modules/(zod|@bufbuild/protobuf|ml-matrix)/'],
      'Pure: bytes in, bytes out. No platform, no network, no clock.',
    ),
    {
      ...only(
        'trainer',
        ['^compiler/', 'node_modules/zod/'],
        'The compiler over the interfaces that it declares: no platform, no clock, so that it also runs in a browser.',
      ),
      from: { path: '^trainer/(?!browser/)' },
    },
    {
      ...only(
        'trainer',
        ['^(compiler|runtime)/', '^gpu-backend/(text/|errors\\.ts$)', 'node_modules/zod/'],
        "The trainer in a page, with the base's own tokenizer.",
      ),
      name: 'trainer-browser-imports',
      from: { path: '^trainer/browser/' },
    },
    only(
      'console',
      ['^trainer/', '^compiler/errors\\.ts$', '^jobs/contract\\.ts$', 'node_modules/zod/'],
      "Pages: the trainer's library for browsers, and what the server of the pages says.",
    ),
    only(
      'runtime',
      ['node_modules/(onnxruntime-|webgpu/)', '^(fs|path|crypto|os|stream|buffer|url|module|worker_threads)', '^node:'],
      'What the platform gives: ONNX Runtime and files.',
    ),
    only(
      'jobs',
      [
        '^(compiler|runtime)/',
        'node_modules/(hono|@hono/node-server|zod|jose)/',
        '^(fs|path|crypto|http|net|stream|worker_threads)',
        '^node:',
      ],
      'The compiler behind HTTP; never the gateway, the cli or the backend.',
    ),
    only(
      'pull',
      ['^runtime/disk\\.ts$', 'node_modules/(@huggingface/hub|zod)/', '^(fs|path|crypto)', '^node:'],
      'The Hub into a folder; knows nothing of what the files mean.',
    ),
    {
      name: 'gpu-backend-imports',
      severity: 'error',
      from: { path: '^gpu-backend/' },
      to: { path: '^(gateway|trainer|cli|console|test)/' },
    },
    {
      name: 'a-page-has-no-node',
      comment: 'What runs in a page reaches nothing of Node, by whatever way.',
      severity: 'error',
      from: { path: '^((gpu-backend|trainer)/browser|console)/' },
      to: { path: '^(node:|fs|path|crypto|os|stream|buffer|url|module|worker_threads|timers)', reachable: true },
    },
    {
      name: 'nothing-imports-cli-or-test',
      severity: 'error',
      from: { pathNot: '^(cli|test|bench|scripts|examples)/' },
      to: { path: '^(cli|test)/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^test/gateway/' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['workerd', 'worker', 'import', 'node', 'default', 'types'],
    },
  },
}
