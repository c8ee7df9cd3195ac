// Print every event in order, also those published while this program did not run.
//   npm install zeromq && node replay.js tcp://127.0.0.1:5555 position.json
const fs = require("fs");
const { promisify } = require("util");
const zmq = require("zeromq");

// Await each line: Node queues output for a full pipe, and a crash loses the queue.
const print = promisify((event, done) => process.stdout.write(JSON.stringify(event) + "\n", done));

async function ask(replay, question) {
  const socket = new zmq.Request({ receiveTimeout: 2000, linger: 0 });
  try {
    socket.connect(replay);
    await socket.send(JSON.stringify({ v: 1, request: "replay", ...question }));
    const [header, ...events] = await socket.receive();
    return { ...JSON.parse(header), events: events.map((body) => JSON.parse(body)) };
  } finally {
    socket.close(); // also after a time-out: a REQ socket would wait for ever
  }
}

async function main(endpoint = "tcp://127.0.0.1:5555", file = "position.json") {
  let position = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file)) : { epoch: null, after: 0 };
  const heartbeats = new zmq.Subscriber();
  heartbeats.connect(endpoint);
  heartbeats.subscribe("heartbeat/");
  for await (const [, body] of heartbeats) {
    const beat = JSON.parse(body);
    try {
      while (position.epoch !== beat.epoch || position.after < beat.head) {
        const page = await ask(beat.replay, position);
        if (page.reply === "error") break;
        for (const [first, last] of page.lost) await print({ type: "lost", first, last });
        for (const event of page.events) await print(event);
        position = { epoch: page.epoch, after: page.upto };
        fs.writeFileSync(`${file}.new`, JSON.stringify(position)); // after printing: a crash repeats a page and loses none
        fs.renameSync(`${file}.new`, file);
        if (page.epoch !== beat.epoch) break; // a heartbeat of the old journal
      }
    } catch (error) {
      console.error(`${beat.replay}: ${error.message}; again with the next heartbeat`);
    }
  }
}

main(...process.argv.slice(2));
