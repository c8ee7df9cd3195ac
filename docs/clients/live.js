// Print the latest prediction of every camera.   npm install zeromq && node live.js tcp://127.0.0.1:5555
const zmq = require("zeromq");

async function main(endpoint = "tcp://127.0.0.1:5555") {
  const socket = new zmq.Subscriber();
  socket.connect(endpoint);
  socket.subscribe("prediction/"); // or "prediction/door/", "action/", "status/door/"
  for await (const [topic, body] of socket) {
    const event = JSON.parse(body);
    const [label, probability] = event.top[0];
    console.log(event.stream, label, probability);
  }
}

main(process.argv[2]);
