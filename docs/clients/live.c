/* Print the events of a topic as JSON, one line for each event.
 *   apt-get install libzmq3-dev && cc live.c -lzmq -o live && ./live tcp://127.0.0.1:5555 prediction/door/
 */
#include <stdio.h>
#include <string.h>
#include <zmq.h>

int main(int argc, char **argv)
{
    const char *endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:5555";
    const char *topic = argc > 2 ? argv[2] : "prediction/";
    void *context = zmq_ctx_new();
    void *socket = zmq_socket(context, ZMQ_SUB);
    if (zmq_setsockopt(socket, ZMQ_SUBSCRIBE, topic, strlen(topic)) || zmq_connect(socket, endpoint)) {
        fprintf(stderr, "%s: %s\n", endpoint, zmq_strerror(zmq_errno()));
        return 1;
    }
    for (;;) {
        zmq_msg_t frame;
        int more;
        do { /* two frames: the topic, and the event's JSON */
            zmq_msg_init(&frame);
            if (zmq_msg_recv(&frame, socket, 0) < 0)
                return 1;
            more = zmq_msg_more(&frame);
            if (!more) {
                fwrite(zmq_msg_data(&frame), 1, zmq_msg_size(&frame), stdout);
                putchar('\n');
                fflush(stdout);
            }
            zmq_msg_close(&frame);
        } while (more);
    }
}
